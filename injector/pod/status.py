"""The annotation ``podlane.io/status``: the injected items and the inputs of the injection. Pure.

It shows whether an injection is still current (the same status would be written), and what `uninject` removes. It is
not trusted: containers and volumes are only ever removed by the names reserved for the injector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from injector.pod.pods import annotations_of, listed, mapping
from traffic_policy.pod.annotations import STATUS


@dataclass(frozen=True, slots=True)
class Injected:
    """The names of the injected items, by list of the Pod's spec."""

    initContainers: tuple[str, ...] = ()  # noqa: N815 (as the API spells them)
    containers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    imagePullSecrets: tuple[str, ...] = ()  # noqa: N815


@dataclass(frozen=True, slots=True)
class InjectionStatus:
    """``version`` is Podlane's, ``policy`` the hash of the effective policy (None: a shared one could not be read),
    ``spec`` the hash of the injected items, ``created`` the lists that did not exist before, ``revision`` the
    installation that injected them (empty: the default one). ``governed``: the sidecar follows policies of the
    cluster."""

    version: str
    policy: str | None
    spec: str
    injected: Injected
    created: tuple[str, ...] = ()
    revision: str = ""
    governed: bool = False

    def text(self) -> str:
        """The annotation's value."""
        document: dict[str, Any] = {
            "version": self.version,
            "policy": self.policy,
            "spec": self.spec,
            "injected": {key: getattr(self.injected, key) for key in Injected.__dataclass_fields__},
            "created": self.created,
        }
        if self.revision:
            document["revision"] = self.revision
        if self.governed:
            document["governed"] = True
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_pod(cls, pod: Mapping[str, Any]) -> Self | None:
        """The status that a Pod carries, or None. An unreadable one counts as empty."""
        text = annotations_of(pod).get(STATUS)
        if text is None:
            return None
        try:
            document = mapping(json.loads(text))
        except (TypeError, ValueError, RecursionError):
            document = {}
        injected = mapping(document.get("injected"))
        return cls(
            version=str(document.get("version", "")),
            policy=document.get("policy") if isinstance(document.get("policy"), str) else None,
            spec=str(document.get("spec", "")),
            injected=Injected(**{key: _texts(injected.get(key)) for key in Injected.__dataclass_fields__}),
            created=_texts(document.get("created")),
            revision=str(document.get("revision", "")),
            governed=document.get("governed") is True,
        )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in listed(value) if isinstance(item, str))
