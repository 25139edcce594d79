"""The variables by which a kubelet tells a Pod's containers of the Services in its namespace. Pure.

A Service named ``podlane-admin`` sets ``PODLANE_ADMIN_PORT`` to a URL, which is a setting's name
(``FromServices`` of k8s.io/kubernetes, pkg/kubelet/envvars/envvars.go). A Pod goes without them with
``enableServiceLinks: false``; variables that a container's ``env`` has win over them.
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(
    r"(?P<service>[A-Z0-9_]+?)_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_URL: Final = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


def service_behind(variable: str) -> str | None:
    """The name of a Service that would set this variable, as in ``podlane-admin``; None when none can."""
    match = _NAME.fullmatch(variable)
    return match["service"].lower().replace("_", "-") if match else None


def service_link(variable: str, value: object) -> str | None:
    """A sentence on a variable that has a Service's URL instead of a setting, with the remedy; else None."""
    service = service_behind(variable)
    if service is None or not isinstance(value, str) or not _URL.fullmatch(value):
        return None
    return (
        f"{value!r} is the address of the Service {service}, which Kubernetes puts in this variable. "
        "Set enableServiceLinks: false in the Pod's spec, or this variable to what it should be."
    )
