"""What the tests create: Pods and their owners as developers write them, for namespaces that opted in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

INJECTED: Final = {"podlane.io/inject": "enabled"}
"""The label of a namespace that opted in."""
AGENT: Final = {"podlane.io/mode": "agent"}
"""The label of what asks for the agent."""
IMAGE: Final = "registry.example.com/app:1"
LIMITED: Final = {"podlane.io/egress-bandwidth": "10M"}


def limits(*names: str, total: str = "50M") -> dict[str, str]:
    """Annotations with classes of these names."""
    classes = [f"{{name: {name}, rate: 1Mbit, match: {{port: {1000 + i}}}}}" for i, name in enumerate(names)]
    return {"podlane.io/egress-bandwidth": total, "podlane.io/classes": f"[{', '.join(classes)}]"}


def pod(
    annotations: Mapping[str, str] = LIMITED, labels: Mapping[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    """A Pod of one container; ``spec`` adds to its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "annotations": dict(annotations), "labels": dict(labels or {})},
        "spec": {"containers": [{"name": "app", "image": IMAGE}], **spec},
    }


def template(annotations: Mapping[str, str] = LIMITED, **spec: Any) -> dict[str, Any]:
    """A Pod template whose Pods have the label ``app: web``."""
    made = pod(annotations, {"app": "web"}, **spec)
    return {"metadata": {k: v for k, v in made["metadata"].items() if k != "name"}, "spec": made["spec"]}


def deployment(annotations: Mapping[str, str] = LIMITED, replicas: int = 2) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(annotations)},
    }


def stateful_set(annotations: Mapping[str, str] = LIMITED) -> dict[str, Any]:
    made = deployment(annotations, 1)
    return {**made, "kind": "StatefulSet", "spec": {**made["spec"], "serviceName": "web"}}


def daemon_set(annotations: Mapping[str, str] = LIMITED) -> dict[str, Any]:
    made = deployment(annotations)
    return {**made, "kind": "DaemonSet", "spec": {k: v for k, v in made["spec"].items() if k != "replicas"}}


def cron_job(annotations: Mapping[str, str] = LIMITED, schedule: str = "0 0 1 1 *") -> dict[str, Any]:
    once = job(annotations)["spec"]
    spec = {"schedule": schedule, "jobTemplate": {"spec": once}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "often"}, "spec": spec}


def job(annotations: Mapping[str, str] = LIMITED) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once"},
        "spec": {"template": template(annotations, restartPolicy="Never")},
    }
