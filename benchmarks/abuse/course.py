"""What most scenarios do: warm up, hold or send something while honest clients ask, let it end, and look again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.abuse.arena import GIVES_BACK_S, Arena, Sidecar
from benchmarks.abuse.figures import ASIDE, Size, honest_figures
from benchmarks.abuse.readings import Reading
from traffic_policy.policy import Requests


@dataclass(frozen=True)
class Course:
    """A sidecar that is warm, and what it took before anything happened."""

    arena: Arena
    sidecar: Sidecar
    size: Size
    before: Reading

    def honest(self) -> tuple[dict[str, float], Reading]:
        """What honest clients get now, and what the sidecar takes at their end."""
        begun = self.sidecar.read()
        figures = honest_figures(self.arena.honest(self.size.rate, self.size.seconds))
        now = self.sidecar.read()
        return {**figures, "cpu_share": now.share(begun)}, now

    def afterwards(self, *, rest: float = GIVES_BACK_S) -> dict[str, float]:
        """When all is over, for ``rest`` seconds: what stays, and whether honest clients are served."""
        after = self.sidecar.settle(rest=rest)
        told = honest_figures(self.arena.honest(self.size.rate, self.size.around))
        return {
            "back": after.resident_kib / self.before.resident_kib,
            "descriptors_left": max(0.0, after.descriptors - self.before.descriptors),
            "after_error_share": told["error_share"],
        }

    def per_connection(self, held: float, now: Reading) -> Mapping[str, float]:
        """Memory, of which each of ``held`` connections takes its part."""
        user = (now.resident_kib - self.before.resident_kib) / held
        return {"user_kib": user, "both_kib": user + (now.kernel_kib - self.before.kernel_kib) / held}

    def growth_mib(self, now: Reading) -> float:
        """Resident memory, more than before."""
        return (now.resident_kib - self.before.resident_kib) / 1024


@contextmanager
def course(
    arena: Arena, size: Size, datapath: str, *options: str, requests: Requests = Requests.FIRST
) -> Iterator[Course]:
    """Run a sidecar of this datapath until the block ends, warmed up by honest requests."""
    aside = ("--datapath", "step-aside") if datapath == ASIDE else ()
    with arena.sidecar(*aside, *options, requests=requests) as sidecar:
        arena.honest(size.rate, size.around)
        yield Course(arena, sidecar, size, sidecar.settle(rest=0))
