"""Alerts: rules, what has come of them, silences, and the channels that are told."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from control_plane.alerts.desk import AlertDesk
from control_plane.domain.access import Operation
from control_plane.domain.alert_rules import AlertSeverity
from control_plane.domain.commands import (
    EndSilence,
    RemoveAlertChannel,
    RemoveAlertRule,
    SetAlertChannel,
    SetAlertRule,
    SetSilence,
)
from control_plane.domain.errors import UnknownSubjectError
from control_plane.domain.events import SilenceSet
from control_plane.domain.tenant import Tenant
from control_plane.http.agents import TheFleet
from control_plane.http.alerting.documents import (
    AlertDocument,
    AlertRuleDocument,
    AlertRuleWish,
    ChannelDocument,
    ChannelTest,
    ChannelWish,
    SilenceDocument,
    SilenceWish,
    TrialDocument,
    TrialWish,
)
from control_plane.http.context import TheCaller, ThePaging, ThePlane, TheWriting, permit, tag
from control_plane.http.documents import Happened, Page
from control_plane.http.lists import (
    AlertSort,
    AlertStateWanted,
    ChannelSort,
    Exactly,
    Prefix,
    RuleSort,
    SilenceSort,
    having,
    prefixed,
    read_page,
)
from control_plane.http.problems import responses
from control_plane.http.tenants import CHANGES, existing
from control_plane.read_models.lists import ALERT_CHANNELS, ALERT_RULES, ALERTS, SILENCES
from control_plane.service import ControlPlane

router = APIRouter(prefix="/v1/tenants/{tenant}/alerts", responses=responses())


def _desk(request: Request) -> AlertDesk:
    desk: AlertDesk = request.app.state.alerts
    return desk


TheDesk = Annotated[AlertDesk, Depends(_desk)]


@router.get("")
def list_alerts(
    plane: ThePlane,
    caller: TheCaller,
    tenant: str,
    paging: ThePaging,
    sort: AlertSort = "-at",
    state: AlertStateWanted = None,
    severity: AlertSeverity | None = None,
    rule: Exactly = None,
) -> Page[AlertDocument]:
    """Those that fire, and the last ones that are over. Those that are pending are among the values of their rules."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as known:
        existing(known)
    filters = [*having("state", state), *having("severity", severity), *having("rule", rule)]
    rows, following = read_page(plane, ALERTS, tenant, paging, sort, filters)
    with plane.reading(tenant) as known:
        items = [AlertDocument.from_row(row, known.alerts, plane.now) for row in rows]
    return Page(items=items, next=following)


@router.get("/rules")
def list_alert_rules(
    plane: ThePlane, desk: TheDesk, caller: TheCaller, tenant: str, paging: ThePaging, sort: RuleSort = "name",
    name: Prefix = "", severity: AlertSeverity | None = None,
) -> Page[AlertRuleDocument]:  # fmt: skip
    """With their values now."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    filters = [*prefixed("name", name), *having("severity", severity)]
    rows, following = read_page(plane, ALERT_RULES, tenant, paging, sort, filters)
    with plane.reading(tenant) as state:
        firing = Counter(alert.rule for alert in state.alerts.firing)
    items = [
        AlertRuleDocument.describe(
            row["name"],
            row["version"],
            json.loads(row["document"]),
            desk.view.values_of(tenant, row["name"]),
            firing[row["name"]],
        )
        for row in rows
    ]
    return Page(items=items, next=following)


def _rule(state: Tenant, name: str, desk: AlertDesk) -> AlertRuleDocument:
    found = existing(state).alerts.rules.get(name)
    if found is None:
        raise UnknownSubjectError(f"There is no rule {name[:70]}.", "Look at the list of rules.")
    version = state.version(f"alert-rule/{name}")
    firing = sum(alert.rule == name for alert in state.alerts.firing)
    return AlertRuleDocument.describe(name, version, found.to_document(), desk.view.values_of(state.name, name), firing)


@router.get("/rules/{rule}")
def get_alert_rule(
    plane: ThePlane, desk: TheDesk, caller: TheCaller, tenant: str, rule: str, response: Response
) -> AlertRuleDocument:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        document = _rule(state, rule, desk)
    tag(response, document.version)
    return document


@router.put("/rules/{rule}", responses=CHANGES)
def put_alert_rule(
    writing: TheWriting, desk: TheDesk, tenant: str, rule: str, wish: AlertRuleWish, response: Response
) -> AlertRuleDocument | Happened:
    """It is looked at from now on."""
    permit(writing.caller, Operation.PUBLISH, tenant)
    happened = writing.carry_out(Operation.PUBLISH, tenant, SetAlertRule(rule, wish.rule()), response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return _rule(state, rule, desk)


@router.delete("/rules/{rule}", responses=CHANGES)
def remove_alert_rule(writing: TheWriting, tenant: str, rule: str, response: Response) -> Happened:
    """Its alerts are over."""
    return writing.carry_out(Operation.PUBLISH, tenant, RemoveAlertRule(rule), response)


@router.post("/trial", responses=responses(413))
def try_alert_rule(
    plane: ThePlane, fleet: TheFleet, desk: TheDesk, caller: TheCaller, tenant: str, wish: TrialWish
) -> TrialDocument:
    """How often a rule would have fired over the last fifteen minutes. Nothing is stored, and nobody is told."""
    permit(caller, Operation.DRAFT, tenant)
    rule = wish.rule.rule()
    with plane.reading(tenant) as state:
        existing(state)
    trial = desk.try_rule(tenant, wish.name, rule, fleet.agents(tenant), plane.now)
    return TrialDocument.describe(rule, trial)


@router.get("/silences")
def list_silences(
    plane: ThePlane, caller: TheCaller, tenant: str, paging: ThePaging, sort: SilenceSort = "ends_at"
) -> Page[SilenceDocument]:
    """With the alerts that they are about. Those that have ended are forgotten after a while."""
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    rows, following = read_page(plane, SILENCES, tenant, paging, sort)
    with plane.reading(tenant) as state:
        items = [
            SilenceDocument.describe(row["id"], row["version"], json.loads(row["document"]), state.alerts, plane.now)
            for row in rows
        ]
    return Page(items=items, next=following)


def _silence(plane: ControlPlane, state: Tenant, id: str) -> SilenceDocument:
    found = existing(state).alerts.silences.get(id)
    if found is None:
        raise UnknownSubjectError(f"There is no silence {id[:70]}.", "Look at the list of silences.")
    version = state.version(f"silence/{id}")
    return SilenceDocument.describe(id, version, found.to_document(), state.alerts, plane.now)


@router.post("/silences", status_code=201, responses=CHANGES)
def add_silence(writing: TheWriting, tenant: str, wish: SilenceWish, response: Response) -> SilenceDocument | Happened:
    """Alerts that all its matchers match are told to nobody meanwhile."""
    permit(writing.caller, Operation.PUBLISH, tenant)
    return _set_silence(writing, tenant, secrets.token_hex(8), wish, response)


@router.get("/silences/{silence}")
def get_silence(plane: ThePlane, caller: TheCaller, tenant: str, silence: str, response: Response) -> SilenceDocument:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        document = _silence(plane, state, silence)
    tag(response, document.version)
    return document


@router.put("/silences/{silence}", responses=CHANGES)
def change_silence(
    writing: TheWriting, tenant: str, silence: str, wish: SilenceWish, response: Response
) -> SilenceDocument | Happened:
    """Another end, other matchers."""
    permit(writing.caller, Operation.PUBLISH, tenant)
    with writing.plane.reading(tenant) as state:
        _silence(writing.plane, state, silence)
    return _set_silence(writing, tenant, silence, wish, response)


def _set_silence(
    writing: TheWriting, tenant: str, id: str, wish: SilenceWish, response: Response
) -> SilenceDocument | Happened:
    command = SetSilence(id, wish.silence(writing.by.author, writing.plane.now))
    happened = writing.carry_out(Operation.PUBLISH, tenant, command, response)
    if happened.dry_run:
        return happened
    for each in happened.events:
        id = SilenceSet(**each.data).silence  # of the first request with its key, if this one repeats it
    with writing.plane.reading(tenant) as state:
        return _silence(writing.plane, state, id)


@router.delete("/silences/{silence}", responses=CHANGES)
def end_silence(writing: TheWriting, tenant: str, silence: str, response: Response) -> Happened:
    return writing.carry_out(Operation.PUBLISH, tenant, EndSilence(silence), response)


@router.get("/channels")
def list_alert_channels(
    plane: ThePlane, desk: TheDesk, caller: TheCaller, tenant: str, paging: ThePaging, sort: ChannelSort = "name"
) -> Page[ChannelDocument]:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        existing(state)
    rows, following = read_page(plane, ALERT_CHANNELS, tenant, paging, sort)
    items = [
        ChannelDocument(
            name=row["name"],
            version=row["version"],
            trouble=desk.teller.trouble_of(tenant, row["name"]),
            **json.loads(row["document"]),
        )
        for row in rows
    ]
    return Page(items=items, next=following)


def _channel(state: Tenant, name: str, desk: AlertDesk) -> ChannelDocument:
    found = existing(state).alerts.channels.get(name)
    if found is None:
        raise UnknownSubjectError(f"There is no channel {name[:70]}.", "Look at the list of channels.")
    trouble = desk.teller.trouble_of(state.name, name)
    version = state.version(f"alert-channel/{name}")
    return ChannelDocument(name=name, version=version, trouble=trouble, **found.to_document())


@router.get("/channels/{channel}")
def get_alert_channel(
    plane: ThePlane, desk: TheDesk, caller: TheCaller, tenant: str, channel: str, response: Response
) -> ChannelDocument:
    permit(caller, Operation.READ, tenant)
    with plane.reading(tenant) as state:
        document = _channel(state, channel, desk)
    tag(response, document.version)
    return document


@router.put("/channels/{channel}", responses=CHANGES)
def put_alert_channel(
    writing: TheWriting, desk: TheDesk, tenant: str, channel: str, wish: ChannelWish, response: Response
) -> ChannelDocument | Happened:
    """Its secret is no part of it: a file of the control plane's has that."""
    permit(writing.caller, Operation.ADMINISTER, tenant)
    happened = writing.carry_out(Operation.ADMINISTER, tenant, SetAlertChannel(channel, wish.channel()), response)
    if happened.dry_run:
        return happened
    with writing.plane.reading(tenant) as state:
        return _channel(state, channel, desk)


@router.delete("/channels/{channel}", responses=CHANGES)
def remove_alert_channel(writing: TheWriting, tenant: str, channel: str, response: Response) -> Happened:
    return writing.carry_out(Operation.ADMINISTER, tenant, RemoveAlertChannel(channel), response)


@router.post("/channels/{channel}/test")
def try_alert_channel(plane: ThePlane, desk: TheDesk, caller: TheCaller, tenant: str, channel: str) -> ChannelTest:
    """Tell it of an alert that is none, now, and say what happened."""
    permit(caller, Operation.PUBLISH, tenant)
    with plane.reading(tenant) as state:
        _channel(state, channel, desk)
        content = state.alerts.channels[channel]
    outcome = desk.test(tenant, channel, content)
    return ChannelTest(sent=outcome.sent, says=outcome.says)
