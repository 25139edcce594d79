"""Bad input: every operation, called as the OpenAPI document has it and otherwise, answers as the document says."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from control_plane.bootstrap import first_token
from control_plane.domain.access import Role
from control_plane.domain.alert_channels import AlertChannel, AlertMatcher, AlertSilence, ChannelKind
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.commands import (
    AddCluster,
    DraftPolicy,
    GrantGroup,
    PublishPolicy,
    SetAlertChannel,
    SetAlertRule,
    SetBudget,
    SetSilence,
)
from control_plane.domain.rollout import RolloutPlan, Stage
from control_plane.domain.volume_budget import VolumeBudget
from control_plane.http.app import create_app
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12
"""Of each operation; there are some twenty-five."""
REAL = {
    "tenant": "default",
    "policy": "web",
    "cluster": "east",
    "group": "ops",
    "rule": "slow",
    "silence": "a1",
    "channel": "ops",
    "budget": "month",
}
"""Names that there are. Those that a schema gives rise to lead nowhere."""
POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": [443]}]}]}
_ALERTS = "/v1/tenants/{tenant}/alerts"
_RULE = {"kind": "throttled", "threshold": 0.5}
_SILENCE = {"matchers": [{"name": "policy", "value": "web"}], "starts_at": 2**32 - 60, "ends_at": 2**32, "comment": "x"}
SOUND = {
    "PUT /v1/tenants/{tenant}/policies/{policy}/draft": {"document": POLICY},
    "PUT /v1/tenants/{tenant}/clusters/{cluster}/labels": {"labels": {"region": "eu"}},
    f"PUT {_ALERTS}/rules/{{rule}}": _RULE,
    f"POST {_ALERTS}/trial": {"rule": _RULE},
    f"POST {_ALERTS}/silences": _SILENCE,
    f"PUT {_ALERTS}/silences/{{silence}}": _SILENCE,
    f"PUT {_ALERTS}/channels/{{channel}}": {"kind": "webhook", "url": "http://127.0.0.1:9/"},
}
"""Bodies that are right by more than what a schema can say."""
CONDITIONS = ("If-Match", "If-None-Match", "Idempotency-Key")


@pytest.mark.timeout(400)  # a hundred operations
def test_every_operation_answers_as_it_is_documented(database_url: str) -> None:
    store = open_store(database_url)
    plane = ControlPlane(store)
    headers = {"Authorization": f"Bearer {first_token(plane)}"}
    by = Circumstances("test")
    plane.carry_out("default", AddCluster("east"), by)
    for command in (
        DraftPolicy("web", CheckedPolicy.from_document(POLICY)),
        PublishPolicy("web", RolloutPlan((Stage(count=1),))),
        DraftPolicy("web", CheckedPolicy.from_document({**POLICY, "total": "90Mbit"})),
        GrantGroup("ops", Role.EDITOR),
        SetBudget("month", VolumeBudget(5)),
        SetAlertChannel("ops", AlertChannel(ChannelKind.WEBHOOK, "http://127.0.0.1:9/")),
        SetAlertRule("slow", AlertRule(AlertKind.THROTTLED, 0.5)),
        SetSilence("a1", AlertSilence((AlertMatcher("policy", "web"),), plane.now, plane.now + 1000, "a move")),
    ):
        plane.carry_out("default", command, by)
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(plane))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    well = set()
    # What removes the names that the others need comes last.
    for operation in sorted(operations, key=lambda each: (each.method.upper() == "DELETE", -len(each.path))):

        @given(case=operation.as_strategy(), real=st.booleans(), plain=st.booleans(), sound=st.booleans())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def answers(case: schemathesis.Case, real: bool, plain: bool, sound: bool) -> None:
            # By chance alone all three come together too seldom.
            sound = sound and (real or plain)
            real, plain = real or sound, plain or sound
            if real:
                case.path_parameters.update({name: REAL[name] for name in case.path_parameters.keys() & REAL.keys()})
            if plain:
                for name in CONDITIONS:
                    case.headers.pop(name, None)
            if sound and isinstance(case.body, dict) and "document" in case.body:
                case.body["document"] = POLICY
            if sound and case.operation.label in SOUND:
                case.body = SOUND[case.operation.label]
            if case.call_and_validate(checks=CHECKS, headers=headers).status_code < 300:
                well.add(case.operation.label)

        answers()
    # The ids of tokens and nodes cannot be guessed, and there is no identity provider by which to log in.
    beyond = ("{node}", "{token}", "/v1/login")
    unreached = {each.label for each in operations if not any(part in each.path for part in beyond)} - well
    assert len(unreached) <= 2, unreached
    for tenant in plane.names():
        store.verify(tenant)
    store.close()
