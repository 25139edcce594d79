"""Pods whose containers are isolated more, or less, than usual: warnings. Pure.

Which runtime a RuntimeClass stands for, only its ``handler`` says, which means something to the nodes alone. So its
name is looked at, and nothing is refused for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from injector.pod.pods import spec_of
from traffic_policy.pod.annotations import INJECT_LABEL

_SANDBOXES: Final = {
    "gvisor": ("gVisor", "whose network stack has no HTB"),
    "runsc": ("gVisor", "whose network stack has no HTB"),
    "kata": ("Kata Containers", "whose own guest kernel has no HTB"),
}
"""Parts of the usual names of RuntimeClasses. gVisor has FIFO and TBF (google/gvisor, pkg/tcpip/link/qdisc). Kata's
kernel is built without NET_SCH_HTB (kata-containers, tools/packaging/kernel/configs/fragments/common/network.conf)."""


def warnings(pod: Mapping[str, Any]) -> Iterator[str]:
    """Of a sandbox in which the sidecar will probably not start, and of programs that can end it."""
    name = spec_of(pod).get("runtimeClassName")
    for part, (title, lack) in _SANDBOXES.items():
        if isinstance(name, str) and part in name.lower():
            yield (
                f"Podlane has not been tried on {title} (runtime class {name[:40]}), {lack}: the Pod will probably not "
                f'start. Use another runtime class, or set its label {INJECT_LABEL} to "false".'
            )
            break
    if spec_of(pod).get("shareProcessNamespace") is True:
        yield (
            "With shareProcessNamespace programs of user 0, or with the capability KILL, can end the sidecar, and with "
            "it the classes of names. Run the application as another user without KILL."
        )
