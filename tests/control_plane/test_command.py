"""``podlane control-plane`` as a process, and the verbs that are its clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from alert_servers import running_hook
from click.testing import CliRunner
from waiting import until

import podlane.main
from control_plane import main
from control_plane.domain import commands as c
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store

ROOT = Path(__file__).parents[2]
PODLANE = [sys.executable, "-m", "podlane"]
POLICY = """\
total: 100Mbit
classes:
  - {name: web, rate: 1Mbit, ceil: 80Mbit, match: [{sni: [web.example.com]}]}
"""


@dataclass
class Running:
    url: str
    token: str
    """Empty: none was shown."""
    process: subprocess.Popen[str]
    agents_port: int = 0


@contextmanager
def control_plane(folder: Path, *options: str, scheme: str = "http") -> Iterator[Running]:
    """A control plane, which must end by SIGTERM as it should."""
    reader, writer = os.pipe()
    ports = ["--port", "0", "--agents-port", "0", "--ready-fd", str(writer)]
    command = [*PODLANE, "control-plane", "--state", str(folder / "state"), *ports]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, pass_fds=[writer]
        )
    os.close(writer)
    with process, os.fdopen(reader) as ready:
        port = ready.readline().strip()
        assert port, (folder / "log").read_text()
        running = Running(f"{scheme}://127.0.0.1:{port}", "", process, int(ready.readline()))
        try:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            with suppress(BlockingIOError):
                running.token = os.read(process.stdout.fileno(), 1000).decode().strip()
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, (folder / "log").read_text()


class Client:
    """The command line of a user with a folder of their own.

    ``alone``: each command is a process, as a shell starts it. Else only the daemon is, which handles signals; the others
    run in this one, where nothing has to be imported again (half a second each).
    """

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self._environment = {"PODLANE_CONFIG": str(folder / "config"), "NO_COLOR": "1"}
        self._alone = alone

    def run(self, *arguments: str, given: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        alone = self._alone or arguments[0] == "control-plane"
        done = self._process(arguments, given) if alone else self._here(arguments, given)
        assert done.returncode == code, done.stderr
        return done

    def _process(self, arguments: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PODLANE, *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, **self._environment},
        )

    def _here(self, arguments: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
        done = CliRunner(env=self._environment).invoke(podlane.main.main, arguments, given)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


TRAFFIC_POLICIES = """\
apiVersion: podlane.io/v1alpha1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, total: 90Mbit}
---
apiVersion: podlane.io/v1alpha1
kind: TrafficPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, total: 80Mbit}
"""


def test_traffic_policies_of_a_cluster_by_the_command_line(tmp_path: Path, client: Client) -> None:
    apply = ("policy", "apply", "-f", "-")
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        assert "PolicyDrafted" in client.run(*apply, "--dry-run", given=TRAFFIC_POLICIES).stdout
        assert client.run("policy", "list", "-o", "json").stdout.strip() == "[]"
        done = client.run(*apply, "--nodes", "zone=a", given=TRAFFIC_POLICIES)
        assert "web is published: revision 1" in done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["NAME", "web", "db"]
        (db, web) = sorted(json.loads(client.run("policy", "list", "-o", "json").stdout), key=lambda each: each["name"])
        assert web["in_force"]["selector"] == {"app": "web", "podlane.io/namespace": "shop"}
        assert (web["in_force"]["nodes"], web["in_force"]["document"]["total"]) == ({"zone": "a"}, "90Mbit")
        assert db["in_force"]["document"]["total"] == "80Mbit"

        wrong = TRAFFIC_POLICIES.replace("90Mbit", "1Mbit").replace("80Mbit", "80")
        assert "total" in client.run(*apply, given=wrong, code=2).stderr
        other = TRAFFIC_POLICIES.replace("shop", "other")
        assert "has a policy web for namespace shop. Rename" in client.run(*apply, given=other, code=2).stderr
        assert "say their names" in client.run("policy", "apply", "web", "-f", "-", given=other, code=2).stderr
        assert "a policy without a name" in client.run(*apply, given=POLICY, code=2).stderr
        assert json.loads(client.run("policy", "get", "web", "-o", "json").stdout)["revision"] == 1, (
            "nothing has changed"
        )


def test_a_policy_by_the_command_line(tmp_path: Path) -> None:
    client = Client(tmp_path, alone=True)
    file = tmp_path / "web.yaml"
    file.write_text(POLICY)
    with control_plane(tmp_path) as plane:
        assert plane.token.startswith("podlane-platform_")
        client.run("login", plane.url, given=plane.token)
        contexts = tmp_path / "config" / "contexts.yaml"
        assert contexts.stat().st_mode & 0o777 == 0o600
        dry = client.run("policy", "apply", "web", "-f", str(file), "--dry-run").stdout
        assert "PolicyDrafted" in dry
        assert [line.split()[:3] for line in dry.splitlines() if "80Mbit" in line] == [["web", "egress", "added"]]
        done = client.run("policy", "apply", "web", "-f", str(file), "-l", "team=shop", "--reason", "für Freitag")
        assert "revision 1" in done.stderr
        assert "revision 1" in client.run("policy", "apply", "web", "-f", "-", "-l", "team=shop", given=POLICY).stderr
        found = json.loads(client.run("policy", "get", "web", "-o", "json").stdout)
        assert (found["revision"], found["in_force"]["selector"]) == (1, {"team": "shop"})
        [head, row] = client.run("policy", "list").stdout.splitlines()
        assert head.split()[:2] == ["NAME", "REVISION"]
        assert row.split() == ["web", "1", "yes", "no", "100Mbit", "web", "team=shop", "all"]
        assert "total: 100Mbit" in client.run("policy", "get", "web", "-o", "yaml").stdout
        [head] = client.run("policy", "names", "web", "--no-lane").stdout.splitlines()
        assert head.split()[:3] == ["NAME", "PROTOCOL", "PORT"], "there are no agents that could have seen any"
        assert json.loads(client.run("policy", "names", "-o", "json").stdout) == []

        file.write_text(POLICY.replace("1Mbit", "200Mbit", 1))
        refused = client.run("policy", "apply", "web", "-f", str(file), code=2)
        assert f"{file}: " in refused.stderr
        assert "classes[0]" in refused.stderr
        assert "There is no policy other" in client.run("policy", "get", "other", code=1).stderr

        entries = json.loads(client.run("audit", "list", "-o", "json").stdout)
        events = [each["event"] for each in entries if each["event"]]
        assert [each["kind"] for each in events] == ["TenantCreated", "PolicyDrafted", "PolicyPublished"]
        assert events[-1]["reason"] == "für Freitag"
        [wrong] = [each["refusal"] for each in entries if each["refusal"]]
        assert (wrong["status"], wrong["problem"], wrong["author"]) == (422, "invalid-policy", events[-1]["author"])
        assert "refused: 422 invalid-policy" in client.run("audit", "list").stdout
        lines = [json.loads(line) for line in client.run("audit", "export").stdout.splitlines()]
        assert [each["event"]["outcome"] for each in lines] == ["success"] * 3 + ["failure"]
        verified = client.run("audit", "verify").stdout
        assert verified.startswith("3 events are as they were written")
        digest = verified.split()[-1]
    told = client.run("policy", "list", code=1).stderr
    assert "does not answer" in told
    assert "See that the control plane runs" in told

    with control_plane(tmp_path) as again:
        assert again.token == ""
        client.run("login", again.url, given=plane.token)
        assert json.loads(client.run("policy", "get", "web", "-o", "json").stdout) == found
        assert "3 events" in client.run("audit", "verify", "--digest", digest).stdout
        assert "shortened" in client.run("audit", "verify", "--digest", "0" * 64, code=1).stderr
    with sqlite3.connect(tmp_path / "state" / "events.db") as connection:
        connection.execute("DROP TRIGGER events_update")
        connection.execute("UPDATE events SET author = 'eve' WHERE tenant = 'default' AND position = 3")
    connection.close()
    with control_plane(tmp_path) as again:
        client.run("login", again.url, given=plane.token)
        assert "event 3 is not as it was written" in client.run("audit", "verify", code=1).stderr


def test_revisions_are_compared_restored_and_rolled_out(tmp_path: Path, client: Client) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(POLICY)
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        client.run("policy", "apply", "web", "-f", str(file))
        file.write_text(POLICY.replace("total: 100Mbit", "total: 90Mbit"))
        changed = client.run("policy", "diff", "web", "-f", str(file), code=1).stdout.splitlines()
        assert {"-total: 100Mbit", "+total: 90Mbit"} <= set(changed)
        assert "has no draft" in client.run("policy", "diff", "web", code=2).stderr
        client.run("policy", "apply", "web", "-f", str(file), "--draft")
        assert client.run("policy", "diff", "web", code=1).stdout.splitlines()[2:] == changed[2:]

        words = ("--stages", "1, zone=a, 25%", "--soak", "2m", "--max-throttled", "1.5", "--prometheus", "up <= 3")
        [head, row] = client.run("rollout", "start", "web", *words).stdout.splitlines()
        assert head.split()[:4] == ["POLICY", "REVISION", "BEFORE", "STATE"]
        assert row.split()[:7] == ["web", "2", "1", "running", "1", "of", "4"]
        told = json.loads(client.run("rollout", "status", "web", "-o", "json").stdout)
        assert [stage["says"] for stage in told["stages"]] == ["1 agent", "zone=a", "25 %", "100 %"]
        assert (told["soak"], told["gates"]["prometheus"]) == (120, [{"query": "up", "at_most": 3.0}])
        client.run("rollout", "pause", "web", "--reason", "lunch")
        client.run("rollout", "resume", "web")
        assert client.run("rollout", "status", "web").stdout.splitlines()[1].split()[3] == "running"
        assert "slow" in client.run("rollout", "abort", "web", "--reason", "shops were slow").stdout
        assert "taken back" in client.run("rollout", "pause", "web", code=1).stderr

        waited = client.run("rollout", "status", "web", "--wait", code=1)
        assert waited.stderr.startswith("taken back, step 1 of 4 (1 agent): ")

        assert "revision 3" in client.run("policy", "restore", "web", "--revision", "2").stderr
        assert "already" in client.run("policy", "restore", "web", "--revision", "3").stderr
        history = client.run("policy", "history", "web").stdout.splitlines()[1:]
        assert [line.split()[:2] for line in history] == [["1", "100Mbit"], ["2", "90Mbit"], ["3", "90Mbit"]]
        assert client.run("policy", "diff", "web", "--from", "2", "--to", "3").stdout == ""
        assert "no revision 9" in client.run("policy", "restore", "web", "--revision", "9", code=2).stderr
        assert "no step" in client.run("rollout", "start", "web", "--stages", "soon", code=2).stderr
        assert "no limit" in client.run("rollout", "start", "web", "--prometheus", "up", code=2).stderr
        assert "not a duration" in client.run("rollout", "start", "web", "--soak", "5", code=2).stderr


def test_tenants_tokens_and_grants_by_the_command_line(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as plane:
        client.run("login", plane.url, given=plane.token)
        assert client.run("whoami").stdout.splitlines()[1].split()[1:] == ["platform", "administrator"]
        assert "TenantCreated" in client.run("tenants", "create", "shop", "--dry-run").stdout
        assert "is created" in client.run("tenants", "create", "shop", "--title", "The shop").stderr
        assert "changed meanwhile" in client.run("tenants", "create", "shop", code=1).stderr
        client.run("tenants", "rename", "shop", "--title", "Our shop", "--reason", "it moved")
        assert "no tenant shpo" in client.run("tenants", "rename", "shpo", "--title", "x", code=1).stderr
        rows = [line.split() for line in client.run("tenants", "list").stdout.splitlines()]
        assert rows[0] == ["NAME", "TITLE"]
        assert ["shop", "Our", "shop"] in rows

        create = ["tokens", "create", "--tenant", "shop", "--role"]
        made = client.run(*create, "editor", "--title", "CI", "--expires-in", "12h")
        token = made.stdout.strip()
        assert token.startswith("podlane-shop_")
        assert token not in made.stderr
        assert "no time" in client.run(*create, "viewer", "--expires-in", "soon", code=2).stderr
        [row] = json.loads(client.run("tokens", "list", "--tenant", "shop", "-o", "json").stdout)
        assert (row["title"], row["role"], row["token"]) == ("CI", "editor", None)
        client.run("login", plane.url, "--context", "ci", given=token)
        assert client.run("whoami").stdout.split()[-2:] == ["shop", "editor"]
        assert "may not read in default" in client.run("tokens", "list", "--tenant", "default", code=1).stderr
        client.run("tokens", "revoke", row["id"], "--context", "default", "--tenant", "shop")
        assert "no valid token" in client.run("whoami", code=1).stderr

        client.run(
            "grants", "set", "/shop/developers", "--role", "operator", "--context", "default", "--tenant", "shop"
        )
        granted = client.run("grants", "list", "--context", "default", "--tenant", "shop").stdout.splitlines()
        assert granted[1].split() == ["/shop/developers", "operator"]
        client.run("grants", "revoke", "/shop/developers", "--context", "default", "--tenant", "shop")
        assert (
            "has no role"
            in client.run(
                "grants", "revoke", "/shop/developers", "--context", "default", "--tenant", "shop", code=1
            ).stderr
        )
        client.run("tenants", "close", "shop", "--context", "default")
        assert "shop" not in client.run("tenants", "list", "--context", "default").stdout
        assert token.rpartition("_")[2] not in (tmp_path / "log").read_text()


RULES = """\
away:
  kind: agents-away
  threshold: 0%
  annotations: {runbook: "look at {{ agents }}"}
slow: {kind: throttled, threshold: 20%, over: 1m, for: 30s, scope: {policy: web}, severity: critical}
"""


def test_budgets_quotas_and_contexts_by_the_command_line(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as running:
        client.run("login", running.url, "--context", "home", given=running.token)
        client.run("login", running.url, "--context", "shop", "--tenant", "shop", given=running.token)
        client.run("tenants", "create", "shop")
        made = client.run("budgets", "set", "backup", "--bytes", "500GiB", "--policy", "web", "--class", "backup")
        assert made.stderr == "podlane: the budget backup counts\n"
        head, row = made.stdout.splitlines()
        assert head.split() == ["NAME", "OF", "PER", "USED", "BYTES", "SHARE", "UNTIL", "USED", "UP"]
        assert "web backup  month  0 B   500.0 GiB  0.0%" in row
        client.run("budgets", "set", "backup", "--bytes", "much", code=2)
        dry = client.run("budgets", "remove", "backup", "--dry-run")
        assert "BudgetRemoved" in dry.stdout
        assert [each["name"] for each in json.loads(client.run("budgets", "list", "-o", "json").stdout)] == ["backup"]
        client.run("budgets", "remove", "backup")
        assert client.run("budgets", "list").stdout.splitlines()[1:] == []
        client.run("tenants", "quota", "shop", "--policies", "0")
        policy = tmp_path / "web.yaml"
        policy.write_text(POLICY)
        refused = client.run("policy", "apply", "web", "--file", str(policy), code=1)
        assert "The quota of the tenant shop for policies is 0" in refused.stderr
        client.run("tenants", "quota", "shop", "--none")
        client.run("policy", "apply", "web", "--file", str(policy))
        assert "ClusterAdded" in client.run("clusters", "add", "east", "--dry-run").stdout
        assert (
            json.loads(client.run("clusters", "add", "east", "-o", "json").stdout)["events"][0]["kind"]
            == "ClusterAdded"
        )
        assert json.loads(client.run("audit", "verify", "-o", "json").stdout)["position"] > 3
        rows = [line.split() for line in client.run("contexts", "list").stdout.splitlines()]
        assert rows[1:] == [["home", running.url, "default"], ["*", "shop", running.url, "shop"]]
        client.run("contexts", "use", "home", "--tenant", "platform")
        assert "platform" in client.run("contexts", "list").stdout
        assert client.run("policy", "list").stdout.splitlines()[1:] == []
        assert "There is no context gone" in client.run("contexts", "use", "gone", code=2).stderr
        client.run("contexts", "remove", "shop")
        assert [each["name"] for each in json.loads(client.run("contexts", "list", "-o", "json").stdout)] == ["home"]


def test_alerts_by_the_command_line(tmp_path: Path, client: Client) -> None:
    """An agent that never came: its alert fires, and a webhook is told."""
    file = tmp_path / "alerts.yaml"
    file.write_text(RULES)
    secrets = tmp_path / "state" / "channel-secrets"
    options = ("--alerts-may-reach", "127.0.0.0/8")
    with running_hook() as hook, control_plane(tmp_path, *options) as plane:
        client.run("login", plane.url, given=plane.token)
        secrets.mkdir()
        (secrets / "default.ops").write_text("the-secret")
        with closing(open_store(f"sqlite:{tmp_path / 'state' / 'events.db'}")) as store:
            other, by = ControlPlane(store), Circumstances("test")
            other.carry_out("default", c.AddCluster("east"), by)
            other.carry_out("default", c.IssueJoinToken("east", "a", "d" * 64, other.now + 60), by)
            other.carry_out("default", c.EnrolAgent("east", "n1", "a", "d" * 64, "1f"), by)

        assert "Give exactly one" in client.run("alerts", "channel", "ops", code=2).stderr
        client.run("alerts", "channel", "ops", "--webhook", hook.url)
        tested = client.run("alerts", "test", "ops").stdout
        assert "127.0.0.1 answered 200 OK" in tested
        assert hook.got[0][0]["Podlane-Signature"].startswith("t=")
        dry = client.run("alerts", "apply", "-f", str(file), "--dry-run").stdout
        assert "the past is not kept" in dry
        assert "It would have fired 0 times in the last 840 s; there was nothing to look at" in dry
        assert "2 rules are in force in default" in client.run("alerts", "apply", "-f", str(file)).stderr
        rules = json.loads(client.run("alerts", "rules", "-o", "json").stdout)
        assert [(each["threshold"], each["for"]) for each in rules] == [(0, 0), (0.2, 30)]

        until("the webhook", lambda: len(hook.got) > 1)
        [told] = json.loads(hook.got[1][1])["alerts"]
        assert (told["state"], told["summary"]) == ("firing", "1 of 1 agents of east are away: n1")
        assert told["annotations"]["runbook"] == "look at n1"
        until("its note", lambda: " ops " in client.run("alerts", "list").stdout)
        [_, row] = client.run("alerts", "list", "--state", "firing").stdout.splitlines()
        assert row.split()[:3] == ["firing", "warning", "away"]
        assert "100.0% (east)" in client.run("alerts", "rules").stdout

        arguments = ("alerts", "silence", "cluster=ea*", "severity!=critical", "--for", "2h", "--comment", "a move")
        assert "SilenceSet" in client.run(*arguments, "--dry-run").stdout
        made = json.loads(client.run(*arguments, "-o", "json").stdout)
        assert (made["matches"], made["ends_at"] - made["starts_at"]) == (1, 7200)
        assert client.run("alerts", "list").stdout.splitlines()[1].split()[0] == "silenced"
        [_, row] = client.run("alerts", "silences").stdout.splitlines()
        assert row.split()[:4] == [made["id"], "active", "cluster=ea*", "severity!=critical"]
        client.run("alerts", "unsilence", made["id"])
        client.run("alerts", "remove", "away")
        assert client.run("alerts", "list").stdout.splitlines()[1].split()[0] == "resolved"
        assert "no rules by their names" in client.run("alerts", "apply", "-f", "-", given="[]", code=2).stderr
        exported = client.run("audit", "export").stdout
        assert "AlertFired" in exported
        assert "the-secret" not in exported
    assert "the-secret" not in (tmp_path / "log").read_text()


def test_who_has_lost_the_first_token_gets_another(tmp_path: Path, client: Client) -> None:
    with control_plane(tmp_path) as plane:
        token = client.run("control-plane", "--state", str(tmp_path / "state"), "--new-token").stdout.strip()
        assert token not in ("", plane.token)
        client.run("login", plane.url, given=token)
        assert "--new-token" in client.run("audit", "list", "--tenant", "platform").stdout


def test_tls_and_its_ca(tmp_path: Path, client: Client) -> None:
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    with (tmp_path / "chain.pem").open("wb") as chain:
        for pem in certificate.cert_chain_pems:
            chain.write(pem.bytes())
    options = ["--certificate", str(tmp_path / "chain.pem"), "--key", str(tmp_path / "key.pem"), "--address", "0.0.0.0"]
    with control_plane(tmp_path, *options, scheme="https") as plane:
        assert "Name its CA by --ca" in client.run("login", plane.url, given=plane.token, code=1).stderr
        client.run("login", plane.url, "--ca", str(tmp_path / "ca.pem"), given=plane.token)
        assert client.run("policy", "list", "-o", "json").stdout.strip() == "[]"


def test_a_database_of_postgresql(tmp_path: Path, client: Client, database_url: str) -> None:
    with control_plane(tmp_path, "--database", database_url) as plane:
        client.run("login", plane.url, given=plane.token)
        client.run("policy", "apply", "web", "-f", "-", given=POLICY)
        assert "3 events" in client.run("audit", "verify").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--address", "0.0.0.0"], "unencrypted"),
        (["--address", "example"], "not an IP address"),
        (["--certificate", "x"], "belong together"),
        (["--certificate", "x", "--key", "y"], "cannot be used"),
        (["--database", "mysql://x"], "postgresql://"),
        (["--agents-address", "example"], "not an IP address"),
        (["--agents-address", "192.0.2.1"], "Choose another --agents-address"),
        (["--agents-name", "a b"], "no name of a host"),
        (["--trust-domain", "Not A Domain"], "podlane.example.com"),
        (["--ca-certificate", "x"], "belong together"),
        (["--ca-certificate", "x", "--ca-key", "y"], "Name files that can be read"),
        (["--rotate-root", "--ca-certificate", "x", "--ca-key", "y"], "change --ca-key"),
        (["--address", "192.0.2.1", "--certificate", "x", "--key", "y"], "cannot be used"),
    ],
)
def test_what_cannot_work_is_said(tmp_path: Path, options: list[str], words: str) -> None:
    command = ["control-plane", "--state", str(tmp_path / "state"), "--port", "0", "--agents-port", "0", *options]
    done = subprocess.run([*PODLANE, *command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_one_is_told_that_the_port_is_taken(tmp_path: Path) -> None:
    with control_plane(tmp_path) as plane:
        port = plane.url.rpartition(":")[2]
        command = ["control-plane", "--state", str(tmp_path / "state"), "--port", port]
        done = subprocess.run([*PODLANE, *command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, "is taken" in done.stderr) == (1, True)
        ports = ["--port", "0", "--agents-port", str(plane.agents_port)]
        command = ["control-plane", "--state", str(tmp_path / "state"), *ports]
        done = subprocess.run([*PODLANE, *command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert (done.returncode, "Choose another port by --agents-port" in done.stderr) == (1, True)


def test_what_is_no_token_is_refused(tmp_path: Path, client: Client) -> None:
    assert "no token" in client.run("login", "http://127.0.0.1:1", code=2).stderr
    assert "no URL" in client.run("login", "ftp://x", given="t", code=2).stderr
    assert "Log in by" in client.run("policy", "list", code=2).stderr
    with control_plane(tmp_path) as plane:
        assert "no valid token" in client.run("login", plane.url, given="wrong", code=1).stderr
        assert not (tmp_path / "config").exists()


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Nagle's algorithm would hold the second part of each answer back for 40 ms."""
    with (
        main._listen("", "127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("seen", [True, False])
def test_a_token_is_spoken_of_where_somebody_sees_it(seen: bool) -> None:
    """A container's standard output goes nowhere, so that the token is in no log."""
    code = "from podlane.control_plane import _show; _show('the-token')"
    shown = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE if seen else subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert ("shown once" in shown.stderr) is seen
    assert ("--new-token" in shown.stderr) is not seen
    if seen:
        assert shown.stdout == "the-token\n"
