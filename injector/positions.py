"""Where the sidecar stands among a Pod's init containers. Pure.

======================================================  ===========================
The Pod has                                             ``podlane`` is
======================================================  ===========================
no mesh                                                 the first init container
istio-init, istio-validation, a native istio-proxy      after the last of Istio's
linkerd-init, or others of Linkerd                      after the last of Linkerd's
======================================================  ===========================

* First: the application's init containers are shaped, too, and no other sidecar talks before ours.
* After the mesh's: it redirects before anything of ours captures, and what leaves the Pod is what its proxy sends.

The position is put right when the webhook is called again after others have changed the Pod.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from injector.pods import ISTIO_INIT, ISTIO_PROXY, LINKERD, name_of


def position(others: Sequence[Any]) -> int:
    """The index of the sidecar among init containers of which ``others`` are the others."""
    mesh = (ISTIO_PROXY, *ISTIO_INIT, *LINKERD)
    return max((i for i, item in enumerate(others) if name_of(item) in mesh), default=-1) + 1
