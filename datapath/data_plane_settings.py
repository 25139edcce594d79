"""What a data plane is told apart from its policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from datapath.netfilter.capture_settings import CaptureSettings
from traffic_policy.policy import PortRange
from traffic_policy.settings import OnFailure
from traffic_policy.units import Duration


@dataclass(frozen=True, slots=True)
class DataPlaneSettings:
    """What does not depend on the policy.

    ``capture`` is what is asked for: datapath, ports, exclusions, mesh; :meth:`captured` adds what only a running data
    plane knows. ``on_failure`` says what becomes of new connections while nobody handles those that are captured.
    ``own_ports`` are listeners of this program whose clients are left alone. ``grace`` is how long connections may go
    on when their server ends because the policy needs it no more.
    """

    capture: CaptureSettings
    on_failure: OnFailure = OnFailure.OPEN
    own_ports: tuple[int, ...] = ()
    grace: Duration = field(default=Duration(0))

    def captured(
        self, *, interface: str | None, quic: bool = True, connmark: bool = False, apart: Iterable[int] = ()
    ) -> CaptureSettings:
        """Everything about the rules. Clients of the own ports, and of the ports ``apart``, are left alone."""
        alone = sorted({*apart, *self.own_ports})
        return replace(
            self.capture,
            exclude_inbound_ports=self.capture.exclude_inbound_ports + tuple(PortRange(p, p) for p in alone),
            interface=interface,
            connmark=connmark,
            quic=quic,
        )
