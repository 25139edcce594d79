"""What a sidecar does not import: its start is nearly all imports, and every module takes memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

POLICY = """
total: 100Mbit
classes:
  - {name: web, rate: 1Mbit, ceil: 80Mbit, match: {sni: web.example.com, port: [443]}}
"""
NEEDLESS = {
    "aioquic", "argparse", "asyncio", "cryptography", "h2", "http.server", "jsonschema", "matplotlib", "prometheus_client", "pydantic_settings", "pygments",
    "pyroute2", "rich", "scapy", "datapath.explain.policy", "sqlite3", "structlog", "traffic_policy.describe", "unittest", "xml",
}  # fmt: skip
"""With all that is in them."""
START = """
import sys
import podlane.sidecar
from datapath import cleanup
from sidecar.app import main
from sidecar.config.settings import load_settings
from daemon.log import configure
from sidecar.observability.metrics import Metrics
from datapath.netfilter.ruleset import CaptureSettings, build_ruleset
from sidecar.config.loader import load_wanted
from datapath.routing.table import RoutingTable
from traffic_policy.marks import ClassIds
for given in ({"policy": sys.argv[1]}, {"annotations": sys.argv[2]}):
    settings = load_settings(given)
    configure(settings.log_format, settings.log_level)
    policy = load_wanted(settings).policy
    RoutingTable.from_policy(policy, settings.silent_ports, None)
    build_ruleset(policy, ClassIds.assign(c.name for c in policy.classes), CaptureSettings())
    Metrics(lambda: ()).render()
print(*sys.modules)
"""


def test_a_sidecar_imports_only_what_it_uses(tmp_path: Path) -> None:
    policy, annotations = tmp_path / "policy.yaml", tmp_path / "annotations"
    policy.write_text(POLICY)
    annotations.write_text('podlane.io/egress-bandwidth="10M"\n')
    command = [sys.executable, "-c", START, str(policy), str(annotations)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert "sidecar.app.sidecar" in modules
    needless = {name for name in modules for each in NEEDLESS if name == each or name.startswith(f"{each}.")}
    assert needless == set()
