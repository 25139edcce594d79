"""Commands of the control plane, for tests of any sequence of them: right ones, wrong ones, and again."""

from __future__ import annotations

from hypothesis import strategies as st

from control_plane.domain import commands as c
from control_plane.domain.access import Role
from control_plane.domain.alert_channels import AlertChannel, AlertMatcher, AlertSilence, ChannelKind
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.quota import TenantQuota
from control_plane.domain.rollout import OnNewRevision, RolloutPlan, Stage
from control_plane.domain.volume_budget import BudgetPeriod, VolumeBudget

POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": [443]}]}]}
DIGEST = "d" * 64
NOW = 1_000
URL = "https://10.0.0.1:6443"
CA = "-----BEGIN CERTIFICATE-----"

ids = st.sampled_from(["a", "b", "c"])
names = st.sampled_from(["east", "west", "Not a name"])
nodes = st.sampled_from(["n1", "n2"])
ends = st.one_of(st.none(), st.integers(NOW - 10, NOW + 100))
contents = st.sampled_from([POLICY, {"total": "5Mbit", "classes": []}]).map(CheckedPolicy.from_document)
selectors = st.sampled_from([{}, {"team": "shop"}, {"not a label": ""}])
plans = st.one_of(
    st.none(),
    st.builds(
        RolloutPlan,
        st.sampled_from(
            [(Stage(count=1), Stage(percent=50)), (Stage(labels={"zone": "a"}),), (Stage(percent=30), Stage(count=2))]
        ),
        on_new_revision=st.sampled_from(OnNewRevision),
    ),
)
alert_rules = st.builds(
    AlertRule,
    st.sampled_from([AlertKind.THROTTLED, AlertKind.AGENTS_AWAY]),
    st.sampled_from([0.1, 0.5]),
    channels=st.sampled_from([(), ("east",)]),
)
alert_channels = st.sampled_from(
    [
        AlertChannel(ChannelKind.WEBHOOK, "https://alerts.example.com/hook"),
        AlertChannel(ChannelKind.EMAIL, server="mail.example.com:587", sender="a@example.com", to=("b@example.com",)),
    ]
)
silences = st.builds(
    AlertSilence,
    st.just((AlertMatcher("policy", "web"),)),
    st.just(NOW),
    st.integers(NOW + 1, NOW + 100),
    st.just("a move"),
)
_alert_commands = st.tuples(
    st.one_of(
        st.builds(c.SetAlertRule, names, alert_rules),
        st.builds(c.RemoveAlertRule, names),
        st.builds(c.SetAlertChannel, names, alert_channels),
        st.builds(c.RemoveAlertChannel, names),
        st.builds(c.SetSilence, ids, silences),
        st.builds(c.EndSilence, ids),
        st.builds(
            c.FireAlert,
            names,
            ids,
            st.just({"severity": "warning", "policy": "web"}),
            st.just({"summary": "slow"}),
            st.just(0.5),
            st.just(NOW),
        ),
        st.builds(c.ResolveAlert, names, ids, st.just("good")),
        st.builds(
            c.TellAlerts,
            names,
            st.dictionaries(ids, st.sampled_from(["firing", "resolved"])),
            st.sampled_from(["", "404"]),
        ),
    )
).map(lambda command: command[0])
"""One of many for :data:`any_command`, which else would be of little else."""
quotas = st.sampled_from([None, None, None, 0, 1, 2, -1])
any_command = st.one_of(
    *[_alert_commands] * 4,
    st.builds(c.CreateTenant, st.sampled_from(["", "The shop", "a\nb"])),
    st.builds(c.RetitleTenant, st.sampled_from(["", "The shop", "x" * 201])),
    st.builds(c.LimitTenant, st.builds(TenantQuota, quotas, quotas)),
    st.builds(
        c.SetCaps,
        st.sampled_from(
            [{}, {"total": "50Mbit"}, {"total": "1Gbit", "priority": 3}, {"ceil": "a lot"}, {"total": "0bit"}]
        ),
        st.booleans(),
    ),
    st.builds(c.SetBudget, names, st.sampled_from([VolumeBudget(5), VolumeBudget(6, BudgetPeriod.DAY, "web")])),
    st.builds(c.RemoveBudget, names),
    st.builds(c.IssueToken, ids, st.just("ci"), st.sampled_from(Role), st.just(DIGEST), ends),
    st.builds(c.RevokeToken, ids),
    st.builds(c.GrantGroup, st.sampled_from(["/ops", "a b", "", " a", "a\n", "x" * 201]), st.sampled_from(Role)),
    st.builds(c.RevokeGrant, st.sampled_from(["/ops", "a b"])),
    st.builds(c.AddCluster, names),
    st.builds(c.RemoveCluster, names),
    st.builds(
        c.IssueJoinToken, names, ids, st.just(DIGEST), st.integers(NOW - 10, NOW + 100), st.sampled_from(["", "n1"])
    ),
    st.builds(
        c.TrustCluster,
        names,
        st.sampled_from(["", URL, "http://x"]),
        st.sampled_from(["", CA]),
        st.sampled_from(["", "a/b"]),
    ),
    st.builds(c.LabelCluster, names, st.sampled_from([{}, {"zone": "a"}, {"podlane.io/cluster": "east"}, {"?": ""}])),
    st.builds(c.EnrolReviewedAgent, names, nodes, st.just(URL), st.just("a/b"), st.just("2f")),
    st.builds(c.RevokeJoinToken, names, ids),
    st.builds(c.EnrolAgent, names, nodes, ids, st.sampled_from([DIGEST, "e" * 64]), st.just("1f")),
    st.builds(c.RevokeAgent, names, nodes),
    st.builds(c.DraftPolicy, names, contents, selectors, st.sampled_from([{}, {"zone": "a"}, {"zone": "a b"}])),
    st.builds(c.DiscardDraft, names),
    st.builds(c.PublishPolicy, names, plans),
    st.builds(c.AdvanceRollout, names, st.integers(1, 3), st.integers(0, 4)),
    st.builds(c.PauseRollout, names),
    st.builds(c.ResumeRollout, names),
    st.builds(c.TakeBackRollout, names, st.just("worse"), st.one_of(st.none(), st.integers(1, 3))),
    st.builds(c.RemovePolicy, names),
)
