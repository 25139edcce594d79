"""Settings of a data plane other than its policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from datapath.netfilter.capture_settings import CaptureSettings
from traffic_policy.policy import PortRange
from traffic_policy.settings import OnFailure
from traffic_policy.units import Duration


@dataclass(frozen=True, slots=True)
class DataPlaneSettings:
    """Settings that do not depend on the policy.

    ``capture`` is the requested configuration: datapath, ports, exclusions, mesh; :meth:`captured` adds what only a
    running data plane knows. ``on_failure`` decides about new connections while no server handles captured ones.
    ``own_ports`` are listeners of this program; their clients are not captured. ``grace`` is how long connections may
    continue when their server ends because the policy no longer needs it. ``read_every`` is how often what is installed
    is read though no change was noticed; it takes a program per family. ``ask_every`` is how often
    the kernel is asked for what it does not announce the end of: programs in it.
    """

    capture: CaptureSettings
    on_failure: OnFailure = OnFailure.OPEN
    own_ports: tuple[int, ...] = ()
    grace: Duration = field(default=Duration(0))
    read_every: Duration = field(default=Duration(60 * 10**9))
    ask_every: Duration = field(default=Duration(0))

    def captured(
        self, *, interface: str | None, quic: bool = True, connmark: bool = False, apart: Iterable[int] = ()
    ) -> CaptureSettings:
        """All settings of the rules. Clients of the own ports and of the ports ``apart`` are not captured."""
        alone = sorted({*apart, *self.own_ports})
        return replace(
            self.capture,
            exclude_inbound_ports=self.capture.exclude_inbound_ports + tuple(PortRange(p, p) for p in alone),
            interface=interface,
            connmark=connmark,
            quic=quic,
        )
