"""Where the injected containers stand among a Pod's own. Pure.

========================================  =====================  ===========================  ===================
The Pod has                               native ``podlane``     classic ``podlane-prepare``  classic ``podlane``
========================================  =====================  ===========================  ===================
no mesh                                   first init container   last init container          first container
istio-init or istio-validation, and       after the last of      last init container          first container
istio-proxy among the containers          Istio's
istio-proxy as a native sidecar           after istio-proxy      last init container          first container
linkerd-init, or others of Linkerd        after the last of      last init container          first container
                                          Linkerd's
========================================  =====================  ===========================  ===================

* First among init containers: those of the application are shaped, too, and no sidecar of others talks before us.
* After the mesh's: it redirects before anything of ours captures, and what leaves the Pod is what its proxy sends.
* ``podlane-prepare`` last: from its end until ``podlane`` runs, captured connections wait. An init container after it
  that talks would wait for ever.
* ``podlane`` the first container: the kubelet starts the next when its postStart hook has ended. Before istio-proxy,
  too: that may make the application wait until it has spoken with its control plane, which must not wait for us.

Positions are put right when the webhook is called again after others have changed the Pod.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from injector.containers import PREPARE
from injector.pods import CONTAINERS, ISTIO_INIT, ISTIO_PROXY, LINKERD, name_of


def position(key: str, name: str, others: Sequence[Any]) -> int:
    """The index at which ``name`` goes into the list ``key`` of a Pod's spec that holds ``others`` without it."""
    if name == PREPARE:
        return len(others)
    if key == CONTAINERS:
        return 0
    mesh = (ISTIO_PROXY, *ISTIO_INIT, *LINKERD)
    return max((i for i, item in enumerate(others) if name_of(item) in mesh), default=-1) + 1
