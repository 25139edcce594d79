"""Beside Linkerd, as far as rules tell: a stand-in for its proxy (HAProxy, as uid 2102) under Linkerd's rules.

Linkerd's own proxy is not to be had where this project is tested. What is proved is that nothing goes in circles and
that what such a proxy sends has its class; not what Linkerd's proxy sends.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ebpf_judge import require_programs
from sidecars import start_sidecar
from waiting import until, until_listening
from webserver import start_nginx

from podlane.netns.topology import PodNodeServer

pytestmark = pytest.mark.root

LINKERD = 2102
RULES = f"""*nat
:PROXY_INIT_OUTPUT - [0:0]
:PROXY_INIT_REDIRECT - [0:0]
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" -j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT -m owner --uid-owner {LINKERD} -m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN
-A PROXY_INIT_OUTPUT -o lo -m comment --comment "proxy-init/ignore-loopback" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" -j REDIRECT --to-ports 4140
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4190,4191 -m comment --comment "proxy-init/ignore-port" -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" -j REDIRECT --to-ports 4143
COMMIT
"""
HAPROXY = f"""
global
  uid {LINKERD}
  gid {LINKERD}
  maxconn 1000
defaults
  mode tcp
  timeout connect 10s
  timeout client 1m
  timeout server 1m
listen outbound
  bind 0.0.0.0:4140
  server original 0.0.0.0:0
"""
POLICY = """
total: 200Mbit
classes:
  - {name: files, rate: 1Mbit, match: {sni: files.example.com}}
  - {name: web, rate: 1Mbit, match: {host: files.example.com}}
"""
MANY = 30
OPTIONS = {"relay": ("--workers", "1"), "two workers": ("--workers", "2"), "ebpf": ("--datapath", "ebpf")}


def as_injected(more: str) -> tuple[str, ...]:
    """With the capabilities that the injector gives."""
    return ("setpriv", *(f"--{which}=-all,+net_admin,{more}" for which in ("bounding-set", "inh-caps")), "--")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_what_a_proxy_with_linkerds_uid_sends_has_its_class(
    topology: PodNodeServer, tmp_path: Path, options: tuple[str, str]
) -> None:
    programs = "ebpf" in options
    if programs:
        require_programs()
    pod = topology.pod
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY)
    pod.popen(["haproxy", "-db", "-f", str(config)])
    until_listening(pod, 4140)
    start_nginx(topology.server, tmp_path / "outside")
    pod.run(["iptables-restore", "--noflush"], stdin=RULES)
    theirs = [line for line in pod.run(["iptables-save", "-t", "nat"]).stdout.splitlines() if line.startswith("-A")]
    wrapped = as_injected("+bpf,+perfmon" if programs else "+setuid")
    sidecar = start_sidecar(pod, POLICY, tmp_path, "--grace", "100ms", *options, wrapped=wrapped)
    resolve = [x for port in (443, 80) for x in ("--resolve", f"files.example.com:{port}:{topology.server_ipv4}")]
    for url, name in (("https://files.example.com", "files"), ("http://files.example.com", "web")):
        got = pod.run(
            [
                "curl",
                "-sSk",
                "--http1.1",
                "-H",
                "Connection: close",
                "--max-time",
                "15",
                *resolve,
                f"{url}/who?[1-{MANY}]",
            ]
        )
        assert got.stdout.count(f"|{topology.pod_link.a.ipv4}\n") == MANY
        # What programs count is read once a second.
        until(f"{MANY} of {name}", lambda n=name: sum(sidecar.connections(n).values()) == MANY)  # type: ignore[misc]
    assert theirs == [
        line for line in pod.run(["iptables-save", "-t", "nat"]).stdout.splitlines() if line.startswith("-A")
    ]
    assert "uid 2102" in sidecar.log.read_text()
    assert sidecar.stop() == 0
