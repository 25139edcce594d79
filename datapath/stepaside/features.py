"""The step-aside check of `podlane check`: tries the complete datapath."""

from __future__ import annotations

from typing import Final

from datapath.errors import RulesetError
from datapath.netfilter.backend import NET_ADMIN_REMEDY, Backend, has_net_admin
from datapath.netfilter.features import Check
from datapath.netfilter.parse import Installed
from datapath.netfilter.ruleset import CaptureSettings
from datapath.netfilter.select import detect_backend, sample
from datapath.stepaside import conntrack
from datapath.stepaside.marks import DECIDED
from datapath.stepaside.queue import PacketQueue
from tc_core.probe.scratch import in_scratch_namespace
from traffic_policy.errors import PodlaneError
from traffic_policy.settings import Datapath, IptablesSetting

_NAME: Final = "step-aside"
_INSTEAD: Final = "Without it, `--datapath relay` does the same, but for QUIC, which then goes by port."
_MODULES: Final = f"Load the modules on the node: modprobe -a xt_NFQUEUE xt_bpf xt_connmark. {_INSTEAD}"
_SETTINGS: Final = CaptureSettings(datapath=Datapath.STEP_ASIDE)


def probe(way: IptablesSetting = IptablesSetting.AUTO) -> Check:
    """Try rules, queue and conntrack marks in a scratch namespace. Never raises.

    If no namespace can be created, rehearse the rules in the current one and read the marks.
    """
    if not has_net_admin():
        return Check(_NAME, False, "not tried without CAP_NET_ADMIN", NET_ADMIN_REMEDY)
    try:
        backend = detect_backend(way)
        try:
            in_scratch_namespace(lambda: _use(backend))
        except PermissionError:
            backend.rehearse(sample(_SETTINGS))
            conntrack.entries(DECIDED)
            return Check(_NAME, True, "looks right, but the queue was not tried: that takes CAP_SYS_ADMIN")
    except RulesetError as error:
        return Check(_NAME, False, str(error), _MODULES)
    except PodlaneError as error:
        return Check(_NAME, False, str(error), _INSTEAD)
    except OSError as error:
        return Check(_NAME, False, error.strerror or str(error), _INSTEAD)
    return Check(_NAME, True, "works")


def _use(backend: Backend) -> None:
    backend.apply(sample(_SETTINGS), Installed())
    PacketQueue(_SETTINGS.outbound_port).close()
    conntrack.entries(DECIDED)
