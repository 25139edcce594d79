"""Who holds a Pod to its limits: the label ``podlane.io/mode`` of a Pod or its namespace. Pure.

A label and not an annotation, so that webhooks, ``kubectl get -l`` and selectors can ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from traffic_policy.errors import Problem
from traffic_policy.pod.annotations import MODE_LABEL
from traffic_policy.pod.effective import AnnotationsError


class Mode(StrEnum):
    """A value of the label."""

    AGENT = "agent"
    """The agent of its node, without anything in the Pod."""
    SIDECAR = "sidecar"
    """A sidecar, if it is injected; the agent leaves the Pod alone."""
    NONE = "none"
    """Nobody."""


def pod_mode(labels: Mapping[str, Any]) -> Mode | None:
    """What a Pod's own labels say; None: nothing. Raises :class:`AnnotationsError`."""
    return _read(labels, "{0!r} is not a value of this label. Write agent, sidecar or none.")


def namespace_mode(labels: Mapping[str, Any]) -> Mode | None:
    """What the labels of a Namespace say; None: nothing. Raises :class:`AnnotationsError`."""
    return _read(
        labels,
        "{0!r}, which the namespace has, is not a value of this label. Ask your cluster's administrator to write "
        "agent, sidecar or none.",
    )


def _read(labels: Mapping[str, Any], message: str) -> Mode | None:
    if MODE_LABEL not in labels:
        return None
    written = labels[MODE_LABEL]
    try:
        return Mode(written)
    except ValueError:
        raise AnnotationsError([Problem(MODE_LABEL, message.format(written))]) from None
