"""``python -m benchmarks.fleet.commands DATABASE SECONDS``: commands over eight tenants, a thread for each, each of
which is on disk when the next begins. Prints how many there were a second, and CPU milliseconds for each."""

from __future__ import annotations

import json
import sys
import time
from threading import Thread
from typing import Final

from control_plane.domain.commands import CreateTenant, RetitleTenant
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store

_TENANTS: Final = 8
_BY: Final = Circumstances("benchmark")


def main(url: str, seconds: float) -> None:
    """Raises :class:`~control_plane.store.errors.StoreError`."""
    store = open_store(url)
    plane = ControlPlane(store)
    for place in range(_TENANTS):
        plane.carry_out(f"tenant-{place}", CreateTenant(), _BY)
    done = [0] * _TENANTS
    end = time.monotonic() + seconds

    def work(place: int) -> None:
        while time.monotonic() < end:
            plane.carry_out(f"tenant-{place}", RetitleTenant(f"title {done[place]}"), _BY)
            done[place] += 1

    threads = [Thread(target=work, args=(place,)) for place in range(_TENANTS)]
    cpu, began = time.process_time(), time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    store.close()
    sys.stdout.write(json.dumps({"per_s": sum(done) / took, "cpu_ms": cpu / sum(done) * 1e3}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
