"""What the control plane decides: any sequence of commands keeps the promises, and single refusals say what to do."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import product

import pytest
from domain_commands import CA, DIGEST, NOW, POLICY, URL, any_command, contents, ids, nodes, plans
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control_plane.domain import commands as c
from control_plane.domain.access import PLATFORM, Operation, Role, TokenText, may
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.decisions import decide
from control_plane.domain.errors import (
    InvalidError,
    RefusedError,
    StateConflictError,
    UnknownEventError,
    UnknownSubjectError,
)
from control_plane.domain.events import AgentEnrolled, Event, PolicyPublished, decode, encode, subject
from control_plane.domain.quota import TenantQuota
from control_plane.domain.rollout import RolloutPlan, RolloutState
from control_plane.domain.tenant import Policy, Tenant, fold
from traffic_policy.errors import PolicyError
from traffic_policy.policy_file import policy_from_document
from traffic_policy.units import Rate

WRONG = {"total": "100Mbit", "classes": [{"name": "web", "rate": "200Mbit", "match": [{"port": [443]}]}]}
GOOD = CheckedPolicy.from_document(POLICY)
AGENTS = [f"{cluster}/{node}" for cluster in ("east", "west") for node in ("n1", "n2", "n3", "n4")]


class AnySequence(RuleBasedStateMachine):
    """One tenant, to which everything that can happen does, also again and out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant = Tenant("shop")
        self.events: list[Event] = []
        self.now = NOW
        self.revisions: dict[str, list[object]] = {}
        self.closed_at: int | None = None

    @rule(command=any_command)
    def anything(self, command: c.Command) -> None:
        self.attempt(command)

    @rule(name=st.sampled_from(["east", "west"]), content=contents, plan=plans)
    def draft_and_publish(self, name: str, content: CheckedPolicy, plan: RolloutPlan | None) -> None:
        self.attempt(c.DraftPolicy(name, content))
        self.attempt(c.PublishPolicy(name, plan))

    @rule(name=st.sampled_from(["east", "west"]))
    def advance(self, name: str) -> None:
        rollout = self.tenant.policies.get(name, Policy(name)).rollout
        if rollout is not None:
            reached = {agent for agent in AGENTS if rollout.reaches(name, agent, {"zone": "a"})}
            self.attempt(c.AdvanceRollout(name, rollout.revision, rollout.stage + 1))
            still = {agent for agent in AGENTS if rollout.reaches(name, agent, {"zone": "a"})}
            assert reached <= still, "a later step has lost agents"

    @rule(name=st.sampled_from(["east", "west"]), id=ids, node=nodes)
    def join(self, name: str, id: str, node: str) -> None:
        self.attempt(c.AddCluster(name))
        self.attempt(c.IssueJoinToken(name, id, DIGEST, self.now + 50))
        self.attempt(c.EnrolAgent(name, node, id, DIGEST, "1f"))

    @rule(seconds=st.integers(0, 60))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(rarely=st.integers(0, 9))
    def close(self, rarely: int) -> None:
        if rarely == 0:
            self.attempt(c.CloseTenant())

    def attempt(self, command: c.Command) -> None:
        before = deepcopy(self.tenant)
        try:
            events = decide(self.tenant, command, self.now)
        except RefusedError:
            events = ()
        assert self.tenant == before, "deciding changed the state"
        assert {subject(event) for event in events} <= {c.subject_of(command)}
        for event in events:
            if isinstance(event, PolicyPublished):
                draft = self.tenant.policies[event.policy].draft
                assert draft is not None
                self.revisions.setdefault(event.policy, []).append(draft)
                assert event.revision == len(self.revisions[event.policy])
            had = self.had()
            self.tenant.apply(event)
            if had != self.had():
                assert self.tenant.revision == self.tenant.position, "agents would not be told"
            self.events.append(event)
        if self.tenant.closed and self.closed_at is None:
            self.closed_at = len(self.events)

    def had(self) -> dict[tuple[str, str, bool], int]:
        """What agents are to have."""
        found = {
            (policy.name, agent, bool(labels)): policy.revision_for(agent, self.tenant.labels_at(agent, labels))
            for policy in self.tenant.policies.values()
            for agent, labels in product(AGENTS, ({}, {"zone": "a"}))
        }
        return {place: revision for place, revision in found.items() if revision}

    @invariant()
    def state_is_what_the_stored_events_say(self) -> None:
        stored = json.loads(json.dumps([encode(event) for event in self.events]))
        assert fold("shop", [decode(kind, data) for kind, data in stored]) == self.tenant
        assert self.tenant.position == len(self.events)

    @invariant()
    def revisions_stay_as_they_were_published(self) -> None:
        found = {name: policy.revisions for name, policy in self.tenant.policies.items() if policy.revisions}
        assert found == self.revisions
        for revisions in found.values():
            for revision in revisions:
                policy_from_document(revision.document)

    @invariant()
    def an_agent_has_the_revision_in_force_or_the_one_before_the_rollout(self) -> None:
        for name, policy in self.tenant.policies.items():
            rollout = policy.rollout
            for agent, labels in product(AGENTS, ({}, {"zone": "a"})):
                all_labels = self.tenant.labels_at(agent, labels)
                has = policy.revision_for(agent, all_labels)
                due = (policy.revision, rollout.before) if rollout and rollout.active else (policy.revision,)
                kept = {n if n and policy.revisions[n - 1].nodes.items() <= all_labels.items() else 0 for n in due}
                assert has in kept
                assert not has or has not in policy.withdrawn
                assert not has or policy.concerns(all_labels)
            if rollout is not None and rollout.state is RolloutState.DONE:
                assert rollout.reaches(name, "east/n1", {})
            if rollout is not None and rollout.active:
                assert policy.revision == rollout.revision == len(policy.revisions)

    @invariant()
    def a_join_token_is_for_one_agent(self) -> None:
        enrolled = [event for event in self.events if isinstance(event, AgentEnrolled) and event.join_token]
        used = [(event.cluster, event.join_token) for event in enrolled]
        # A cluster that was removed and added again is another one, with tokens of its own.
        if not any(type(event).__name__ == "ClusterRemoved" for event in self.events):
            assert len(set(used)) == len(used)

    @invariant()
    def the_revision_says_when_what_is_in_force_changed(self) -> None:
        positions = [policy.since for policy in self.tenant.policies.values()]
        assert self.tenant.revision == max(positions, default=0)

    @invariant()
    def nothing_happens_after_the_end(self) -> None:
        if self.closed_at is not None:
            assert len(self.events) == self.closed_at
            assert not any(cluster.agents for cluster in self.tenant.clusters.values())

    @invariant()
    def revoked_is_for_ever(self) -> None:
        assert not self.tenant.revoked & self.tenant.tokens.keys()
        for cluster in self.tenant.clusters.values():
            assert not cluster.spent & cluster.join_tokens.keys()

    @invariant()
    def an_alert_that_fires_has_a_rule_and_who_was_told_is_there(self) -> None:
        book = self.tenant.alerts
        assert {alert.rule for alert in book.firing} <= book.rules.keys()
        for alert in book.alerts.values():
            assert alert.told.keys() <= book.channels.keys()
            assert alert.troubles.keys() <= alert.told.keys()
        assert {channel for rule in book.rules.values() for channel in rule.channels} <= book.channels.keys()
        assert all(set(alert.told) <= set(book.channels) for alert in book.alerts.values())


AnySequence.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAnySequence = AnySequence.TestCase


def a_tenant(*commands: c.Command, name: str = "shop") -> Tenant:
    """A tenant to which all of this has happened."""
    tenant = Tenant(name)
    for command in (c.CreateTenant(), *commands):
        for event in decide(tenant, command, NOW):
            tenant.apply(event)
    return tenant


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (c.CreateTenant(), StateConflictError, "Choose another name"),
        (c.AddCluster("East"), InvalidError, "lower-case"),
        (c.IssueJoinToken("west", "a", DIGEST, NOW + 1), UnknownSubjectError, "Add it first"),
        (c.IssueJoinToken("east", "b", DIGEST, NOW), InvalidError, "later end"),
        (c.EnrolAgent("east", "n1", "a", "e" * 64, "1f"), StateConflictError, "Issue another"),
        (c.EnrolAgent("east", "no node!", "a", DIGEST, "1f"), InvalidError, "as Kubernetes does"),
        (c.EnrolAgent("east", "n1", "a", DIGEST, "1f"), StateConflictError, "--node n1"),
        (c.EnrolAgent("east", "n2", "bound", DIGEST, "1f"), StateConflictError, "Use it there"),
        (c.EnrolReviewedAgent("east", "n2", URL, "a/b", "1f"), StateConflictError, "podlane clusters trust"),
        (c.TrustCluster("east", "http://10.0.0.1", CA, "a/b"), InvalidError, "https://10.0.0.1:6443"),
        (c.TrustCluster("east", URL, "", "a/b"), InvalidError, "ca.crt"),
        (c.TrustCluster("east", URL, CA, "b"), InvalidError, "NAMESPACE/NAME"),
        (c.LabelCluster("east", {"a b": "c"}), InvalidError, "not a label"),
        (c.LabelCluster("east", {"podlane.io/cluster": "west"}), InvalidError, "Leave it out"),
        (c.PublishPolicy("web"), StateConflictError, "Draft it first"),
        (c.DraftPolicy("web", GOOD, {}, {"zone": "a b"}), InvalidError, "not a label"),
        (c.DraftPolicy("web", GOOD, {"a b": "c"}), InvalidError, "not a label"),
        (c.RemovePolicy("web"), UnknownSubjectError, "podlane policy list"),
        (c.RevokeToken("z"), UnknownSubjectError, "list of tokens"),
        (c.RevokeGrant("ops"), UnknownSubjectError, "has no role"),
        (c.GrantGroup("x" * 201, Role.VIEWER), InvalidError, "identity provider"),
        (c.RetitleTenant("x" * 201), InvalidError, "200 characters"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(command: c.Command, error: type[Exception], words: str) -> None:
    tenant = a_tenant(
        c.AddCluster("east"),
        c.IssueJoinToken("east", "first", DIGEST, NOW + 10),
        c.EnrolAgent("east", "n1", "first", DIGEST, "1f"),
        c.IssueJoinToken("east", "a", DIGEST, NOW + 10),
        c.IssueJoinToken("east", "bound", DIGEST, NOW + 10, "n1"),
    )
    with pytest.raises(error, match=words):
        decide(tenant, command, NOW)


def test_a_quota_holds_for_what_is_new_and_leaves_what_is_there() -> None:
    tenant = a_tenant(
        c.AddCluster("east"),
        *(c.IssueJoinToken("east", id, DIGEST, NOW + 10) for id in ("a", "b", "d")),
        c.IssueJoinToken("east", "again", DIGEST, NOW + 10, "n1"),
        c.TrustCluster("east", URL, CA, "a/b"),
        c.EnrolAgent("east", "n1", "a", DIGEST, "1f"),
        c.EnrolAgent("east", "n2", "b", DIGEST, "1f"),
        c.DraftPolicy("web", GOOD),
        c.LimitTenant(TenantQuota(agents=1, policies=1)),
    )
    assert decide(tenant, c.EnrolAgent("east", "n1", "again", DIGEST, "2f"), NOW), (
        "a node that joins again is no new one"
    )
    for command in (
        c.EnrolAgent("east", "n3", "d", DIGEST, "1f"),
        c.EnrolReviewedAgent("east", "n3", URL, "a/b", "1f"),
    ):
        with pytest.raises(StateConflictError, match="for agents is 1, and it has 2"):
            decide(tenant, command, NOW)
    assert decide(tenant, c.PublishPolicy("web"), NOW)
    with pytest.raises(StateConflictError, match="for policies is 1, and it has 1"):
        decide(tenant, c.DraftPolicy("batch", GOOD), NOW)
    for event in decide(tenant, c.RemovePolicy("web"), NOW):
        tenant.apply(event)
    assert decide(tenant, c.DraftPolicy("batch", GOOD), NOW)
    assert decide(tenant, c.LimitTenant(TenantQuota(1, 1)), NOW) == ()
    with pytest.raises(InvalidError, match="a number from 0"):
        decide(tenant, c.LimitTenant(TenantQuota(-1)), NOW)


@pytest.mark.parametrize(
    "command",
    [c.RetitleTenant(""), c.AddCluster("east"), c.DraftPolicy("web", GOOD), c.RevokeToken("gone")],
)
def test_what_changes_nothing_is_no_event(command: c.Command) -> None:
    tenant = a_tenant(
        c.AddCluster("east"),
        c.DraftPolicy("web", GOOD),
        c.IssueToken("gone", "", Role.VIEWER, DIGEST),
        c.RevokeToken("gone"),
    )
    assert decide(tenant, command, NOW) == ()


@pytest.mark.parametrize("document", [WRONG, None, [], {"total": 1}, POLICY | {"requests": "follow"}])
def test_what_agents_cannot_put_in_force_becomes_no_draft(document: object) -> None:
    with pytest.raises(PolicyError):
        CheckedPolicy.from_document(document)


def test_a_removed_policy_keeps_its_numbers() -> None:
    tenant = a_tenant(
        c.DraftPolicy("web", GOOD), c.PublishPolicy("web"), c.RemovePolicy("web"), c.DraftPolicy("web", GOOD)
    )
    assert tenant.policies["web"].in_force is None
    assert decide(tenant, c.PublishPolicy("web"), NOW) == (PolicyPublished("web", 2),)


def test_the_platform_keeps_an_administrator() -> None:
    first, second = (c.IssueToken(id, "", Role.ADMINISTRATOR, DIGEST) for id in ("a", "b"))
    with pytest.raises(StateConflictError, match="Issue another"):
        decide(a_tenant(first, name=PLATFORM), c.RevokeToken("a"), NOW)
    assert decide(a_tenant(first, second, name=PLATFORM), c.RevokeToken("a"), NOW)
    with pytest.raises(StateConflictError, match="Leave it open"):
        decide(a_tenant(name=PLATFORM), c.CloseTenant(), NOW)


def test_an_event_of_a_newer_version_is_named() -> None:
    with pytest.raises(UnknownEventError, match="RolloutStarted"):
        decode("RolloutStarted", {})
    with pytest.raises(UnknownEventError, match="TenantCreated"):
        decode("TenantCreated", {"title": "", "colour": "red"})


ALLOWED = {
    Role.VIEWER: {Operation.READ},
    Role.EDITOR: {Operation.READ, Operation.DRAFT},
    Role.OPERATOR: {Operation.READ, Operation.DRAFT, Operation.PUBLISH},
    Role.ADMINISTRATOR: {Operation.READ, Operation.DRAFT, Operation.PUBLISH, Operation.ADMINISTER},
}
"""In the tenant of the token."""


@pytest.mark.parametrize(("role", "operation"), list(product(Role, Operation)))
def test_each_role_may_do_what_the_table_says(role: Role, operation: Operation) -> None:
    assert may(role, "shop", operation, "shop") == (operation in ALLOWED[role])
    assert not may(role, "shop", operation, "bank")
    assert not may(role, "shop", operation, PLATFORM)
    assert may(role, PLATFORM, operation, "shop") == (role is Role.ADMINISTRATOR)


def test_a_token_is_read_as_it_was_written() -> None:
    token = TokenText("the-shop", "0123456789abcdef", "A-b" * 14 + "9")
    assert TokenText.parse(str(token)) == token
    assert token.secret not in token.digest
    for wrong in (
        "",
        "podlane-",
        str(token)[:-1],
        f"{token}x",
        f"x{token}",
        str(token).replace("_", "-"),
        f"{token}\n",
    ):
        assert TokenText.parse(wrong) is None


def test_policies_that_agents_could_not_be_sent_are_not_published() -> None:
    large = CheckedPolicy({"total": "1Gbit", "classes": [], "note": "ä" * 100_000})  # as long as a real one can be
    tenant = a_tenant()

    def do(*commands: c.Command) -> None:
        for command in commands:
            for event in decide(tenant, command, NOW):
                tenant.apply(event)

    def publish_more() -> None:
        for number in range(40):
            do(c.DraftPolicy(f"p{number}", large), c.PublishPolicy(f"p{number}"))

    with pytest.raises(StateConflictError, match="Remove one"):
        publish_more()
    assert len(tenant.policies) == 21
    do(c.RemovePolicy("p0"), c.PublishPolicy("p20"))
    assert tenant.policies["p20"].in_force is not None


def test_what_is_beyond_the_caps_is_refused_or_lowered_and_told() -> None:
    tenant = a_tenant()

    def do(command: c.Command) -> tuple[Event, ...]:
        events = decide(tenant, command, NOW)
        for event in events:
            tenant.apply(decode(*encode(event)))
        return events

    do(c.DraftPolicy("old", GOOD))
    do(c.SetCaps({"total": "50Mbit", "priority": 3}))
    with pytest.raises(InvalidError, match=r"total is 100Mbit: 50Mbit at most.*podlane tenants caps shop"):
        do(c.DraftPolicy("web", GOOD))
    with pytest.raises(InvalidError, match="beyond the caps"):
        do(c.PublishPolicy("old"))

    do(c.SetCaps({"total": "50Mbit", "priority": 3}, clamp=True))
    [drafted] = do(c.DraftPolicy("web", GOOD))
    assert policy_from_document(drafted.document).total == Rate.parse("50Mbit")
    assert "total is 50Mbit instead of 100Mbit, by the caps of the tenant shop." in drafted.clamped
    assert do(c.DraftPolicy("web", GOOD)) == (), "it is like this already"
    do(c.PublishPolicy("web"))
    assert tenant.policies["web"].in_force.clamped == drafted.clamped

    do(c.SetCaps({"total": "20Mbit"}, clamp=True))
    assert tenant.policies["web"].in_force.document["total"] == "50Mbit", "what is in force stays"
    do(c.SetCaps({}))
    assert do(c.SetCaps({}, clamp=True)) == ()
    [drafted] = do(c.DraftPolicy("web", GOOD))
    assert (drafted.document, drafted.clamped) == (GOOD.document, [])


@pytest.mark.parametrize("caps", [{"total": "a lot"}, {"ceil": "1bit"}, {"priority": 8}, {"priority": -1}])
def test_caps_that_make_no_sense_are_refused(caps: dict[str, object]) -> None:
    with pytest.raises(InvalidError, match="Write"):
        decide(a_tenant(), c.SetCaps(caps), NOW)


def test_a_policy_of_which_caps_leave_too_little_is_refused() -> None:
    tenant = a_tenant()
    for event in decide(tenant, c.SetCaps({"total": "8kbit"}, clamp=True), NOW):
        tenant.apply(event)
    classes = [{"name": f"c{port}", "rate": "1Mbit", "match": [{"port": [port]}]} for port in range(1, 4)]
    many = CheckedPolicy.from_document({"total": "10Mbit", "classes": classes})
    with pytest.raises(InvalidError, match="cannot be kept within the caps"):
        decide(tenant, c.DraftPolicy("web", many), NOW)
