"""The reviews that are sent: three sorts of Pods as an API server shows them to a webhook, after its own defaults.

Each is asked about twice, as in a cluster: by ``/mutate`` as it was created, by ``/validate`` with the patch in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

NO_UID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands in a body where each request has a uid of its own."""

_MUTATE, _VALIDATE = "/mutate?timeout=10s", "/validate?timeout=10s"

_CLASSES: Final = """\
- name: api
  rate: 20Mbit
  ceil: 80Mbit
  priority: 1
  match:
    - sni: [api.example.com, "*.api.example.com"]
    - host: [api.example.com]
      port: [80, "8000-8100"]
- name: video
  rate: 25Mbit
  match: {sni: ["*.video.example.com", "*.video.example.net"]}
- name: backup
  rate: 1Mbit
  ceil: 10Mbit
  priority: 7
  match:
    - {cidr: [10.0.0.0/8], port: [873]}
"""


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and what its answer must hold for it to count. ``body`` has :data:`NO_UID` where a uid belongs."""

    method: str
    path: str
    body: bytes
    expected: bytes

    def numbered(self, number: int) -> tuple[bytes, bytes]:
        """The body of the request ``number``, and the uid in it; the same length whatever the number."""
        uid = f"{number:032x}"
        uid = f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}"
        return self.body.replace(NO_UID.encode(), uid.encode()), uid.encode() if self.body else b""

    def answers(self, status: int, said: bytes, uid: bytes) -> bool:
        """Whether this is the answer to the request with that uid."""
        return status == 200 and self.expected in said and uid in said


def pods() -> dict[str, Mapping[str, Any]]:
    """By name: a Pod that has a limit, one with classes too, one of eight containers that have much to say."""
    total = {"podlane.io/egress-bandwidth": "100M"}
    return {
        "plain": _pod(total, 1, 2),
        "classes": _pod({**total, "podlane.io/classes": _CLASSES, "podlane.io/exclude-outbound-ports": "9090"}, 2, 5),
        "many containers": _pod({**total, "podlane.io/classes": _CLASSES}, 8, 30),
    }


def untouched() -> Mapping[str, Any]:
    """A Pod without limits, which is to be left alone."""
    return _pod({}, 1, 2)


def mutation(pod: Mapping[str, Any]) -> Question:
    """The mutating webhook is asked about a new Pod that it has to change."""
    return Question("POST", _MUTATE, _review(pod), b'"patch":')


def validation(pod: Mapping[str, Any]) -> Question:
    """The validating webhook is asked about a Pod that is right."""
    return Question("POST", _VALIDATE, _review(pod), b'"allowed":true')


def traffic(mutated: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Question, ...]]:
    """By name: requests that are sent in turn. ``mutated`` has each of :func:`pods` with its patch in it."""
    alone = _review(untouched())
    return {
        "reviews": tuple(q for name, pod in pods().items() for q in (mutation(pod), validation(mutated[name]))),
        "untouched": tuple(Question("POST", path, alone, b'"allowed":true') for path in (_MUTATE, _VALIDATE)),
        "health": (Question("GET", "/healthz", b"", b""),),
    }


def _review(pod: Mapping[str, Any]) -> bytes:
    about_pods = {"group": "", "version": "v1"}
    kind, resource = {**about_pods, "kind": "Pod"}, {**about_pods, "resource": "pods"}
    request = {
        "uid": NO_UID,
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {
            "username": "system:serviceaccount:kube-system:replicaset-controller",
            "uid": "7d9a4f5e-4f0e-4b66-9a35-0b9d4ad0c5a1",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
        },
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    document = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    return json.dumps(document, separators=(",", ":")).encode()


def _pod(annotations: Mapping[str, str], containers: int, variables: int) -> dict[str, Any]:
    named = [_container(number, variables) for number in range(containers)]
    fields: dict[str, Any] = {f'k:{{"name":"{each["name"]}"}}': {f"f:{key}": {} for key in each} for each in named}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "generateName": "web-6d4cf56db6-",
            "namespace": "shop",
            "creationTimestamp": None,
            "labels": {"app": "web", "pod-template-hash": "6d4cf56db6"},
            "annotations": dict(annotations),
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": "web-6d4cf56db6",
                    "uid": "0d5b1b0e-1f3c-4d0a-8a51-3a7b9b0d1f11",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                {
                    "manager": "kube-controller-manager",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:containers": fields}},
                }
            ],
        },
        "spec": {
            "volumes": [_token_volume()],
            "containers": named,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "serviceAccount": "default",
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300}
                for what in ("not-ready", "unreachable")
            ],
            "priority": 0,
            "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {},
    }  # fmt: skip


def _container(number: int, variables: int) -> dict[str, Any]:
    probe = {
        "httpGet": {"path": "/ready", "port": 8080 + number, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    return {
        "name": f"web-{number}",
        "image": f"registry.example.com/shop/web-{number}:2026.11.{number}",
        "ports": [{"name": "http", "containerPort": 8080 + number, "protocol": "TCP"}],
        "env": [{"name": f"SHOP_SETTING_{i}", "value": f"value {i} of container {number}"} for i in range(variables)],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [
            {
                "name": "kube-api-access-x7k2p",
                "readOnly": True,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            }
        ],
        "livenessProbe": probe,
        "readinessProbe": probe,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }


def _token_volume() -> dict[str, Any]:
    downward = [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
    sources: list[dict[str, Any]] = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": downward}},
    ]
    return {"name": "kube-api-access-x7k2p", "projected": {"sources": sources, "defaultMode": 420}}
