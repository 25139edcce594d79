"""A small fleet in which everything occurs that pages show: for pictures, and for looking at every page."""

from __future__ import annotations

import time
from typing import Any, Final

from stage import Stage
from waiting import until

from control_plane.domain.volume_budget import DAY, BudgetPeriod

SHOP: Final[dict[str, Any]] = {
    "total": "100Mbit",
    "classes": [
        {"name": "api", "rate": "20Mbit", "ceil": "60Mbit", "priority": 1,
         "match": [{"sni": ["api.shop.example.com", "*.api.shop.example.com"]},
                   {"host": ["api.shop.example.com"], "port": [80, "8000-8100"]}]},
        {"name": "video", "rate": "25Mbit", "ceil": "70Mbit", "priority": 4,
         "match": [{"sni": ["*.video.shop.example.com"]}]},
        {"name": "web", "rate": "15Mbit", "ceil": "50Mbit", "priority": 3,
         "match": [{"host": ["www.shop.example.com"]}, {"sni": ["cdn.shop.example.com"]}]},
        {"name": "events", "rate": "10Mbit", "ceil": "30Mbit", "priority": 4,
         "match": [{"host": ["events.shop.example.com"]}]},
        {"name": "backup", "rate": "5Mbit", "ceil": "80Mbit", "priority": 7,
         "match": [{"cidr": ["10.0.0.0/8"], "port": [873]}]},
    ],
}  # fmt: skip
BATCH: Final[dict[str, Any]] = {
    "total": "50Mbit",
    "classes": [{"name": "sync", "rate": "10Mbit", "ceil": "40Mbit", "match": [{"port": [873, 22]}]}],
}


def dress(stage: Stage) -> None:
    """Fill it: three clusters, agents in every state, policies in force, one on its way, alerts of which one is
    silenced, budgets of which one is used up."""
    stage.add_agents("fra1", [f"fra1-w{n:03}" for n in range(1, 22)])
    stage.add_agents("ams2", [f"ams2-w{n:03}" for n in range(1, 13)])
    stage.add_agents("iad1", [f"iad1-w{n:03}" for n in range(1, 7)], version="0.1.4", refuses="cdn.shop")
    stage.add_agents("iad1", ["iad1-w007", "iad1-w008"], lazy=True)
    for gone in stage.add_agents("ams2", ["ams2-w117"]):
        until("its Hello", lambda: stage.api.ask("GET", "/v1/tenants/default/agents/summary")["states"]["away"] == 0)
        gone.stop()
    stage.api.publish("shared-lanes", SHOP)
    stage.api.publish("batch", BATCH)
    more = {**SHOP, "classes": [{**SHOP["classes"][0], "rate": "30Mbit"}, *SHOP["classes"][1:]]}
    gates = {"failed": 8, "away": 0.2, "dropped": 3.0}
    rollout = {"stages": [{"percent": 20}, {"percent": 60}], "soak": 600, "gates": gates}
    stage.api.publish("shared-lanes", more, rollout, reason="more room for api")
    web = {**SHOP["classes"][2], "ceil": "40Mbit"}
    draft = {**more, "classes": [*more["classes"][:2], web, *more["classes"][3:]]}
    place = "/v1/tenants/default/policies/shared-lanes"
    stage.api.ask("PUT", f"{place}/draft", {"document": draft, "selector": {"app": "shared-lanes"}})
    until("the first stage", lambda: (stage.api.ask("GET", f"{place}/rollout")["progress"] or {"having": 0})["having"])
    alarm(stage)
    spend(stage)


def alarm(stage: Stage) -> None:
    """Rules, of which some fire, a channel that is told, and a silence."""
    place = "/v1/tenants/default/alerts"
    hook = {"kind": "webhook", "url": "https://alerts.example.com/podlane"}
    stage.api.ask("PUT", f"{place}/channels/ops", hook)
    about = {"summary": "{{ policy }}/{{ class }} uses {{ value }} of what it may"}
    rules: dict[str, dict[str, Any]] = {
        "away": {"kind": "agents-away", "threshold": 0.05, "severity": "critical"},
        "busy": {"kind": "budget", "threshold": 0.02, "over": 5, "annotations": about, "scope": {"policy": "batch"}},
        "dropping": {"kind": "dropped", "threshold": 0.2, "for": 30, "labels": {"team": "shop"}},
        "certificates": {"kind": "certificate-expiry", "threshold": 3600, "severity": "info"},
    }
    for name, rule in rules.items():
        stage.api.ask("PUT", f"{place}/rules/{name}", rule)
    silence = {
        "matchers": [{"name": "alertname", "value": "busy"}, {"name": "class", "value": "sync"}],
        "ends_at": int(time.time()) + 7200,
        "comment": "we move the database",
    }
    stage.api.ask("POST", f"{place}/silences", silence)
    until("both alerts", lambda: {each["rule"] for each in firing(stage)} == {"away", "busy"}, patience=90)


def spend(stage: Stage) -> None:
    """Three budgets: one that lasts, one that will not, and one that is used up."""
    now, month = int(time.time()), BudgetPeriod.MONTH
    begun, end = month.first_day(now) * DAY, month.end(now)
    # More of it is used than of the month is over, and not all of it, on whichever day this is.
    share = (1 + (now - begun) / (end - begun)) / 2
    budgets: dict[str, dict[str, Any]] = {
        "archive": {"bytes": 500 << 30, "policy": "archive", "class": "backup"},
        "partner": {"bytes": 50 << 30, "policy": "partner", "direction": "egress"},
        "shop": {"bytes": 60 << 40, "period": "day", "policy": "shared-lanes"},
    }
    for name, budget in budgets.items():
        stage.api.ask("PUT", f"/v1/tenants/default/budgets/{name}", budget)
    stage.sent("archive", int((500 << 30) * share))
    stage.sent("partner", 53 << 30)


def firing(stage: Stage) -> list[dict[str, Any]]:
    """The alerts that fire."""
    found: list[dict[str, Any]] = stage.api.ask("GET", "/v1/tenants/default/alerts?state=firing")["items"]
    return found
