"""AdmissionReviews about Pods, and answers that are checked to be such as an API server takes."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from injected_pods import USUAL, applied

from injector.pod.admission import SharedPolicies
from injector.pod.defaults import InjectionDefaults

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def no_policies(namespace: str, name: str) -> str | None:
    raise AssertionError(f"nobody named {namespace}/{name}")


def review(
    given: Any, operation: str = "CREATE", before: Any = None, namespace: str = "shop", **request: Any
) -> dict[str, Any]:
    """As https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/ shows."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": UID,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "name": "",
            "namespace": namespace,
            "operation": operation,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": given,
            "oldObject": before,
            "dryRun": False,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
            **request,
        },
    }


def answer(
    webhook: Callable[..., dict[str, Any]],
    document: Any,
    defaults: InjectionDefaults = USUAL,
    shared: SharedPolicies = no_policies,
) -> dict[str, Any]:
    """The response, which is checked to be one that an API server takes."""
    asked = copy.deepcopy(document)
    result = webhook(document, defaults, shared)
    assert document == asked
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"apiVersion", "kind", "response"}
    assert (result["apiVersion"], result["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = result["response"]
    assert isinstance(response, dict)
    assert set(response) <= {"uid", "allowed", "patchType", "patch", "warnings", "status"}
    assert isinstance(response["uid"], str)
    assert ("patch" in response) == ("patchType" in response)
    if response["allowed"] is True:
        assert "status" not in response
    else:
        assert response["allowed"] is False
        assert set(response["status"]) == {"code", "reason", "message"}
        assert response["status"]["code"] in (400, 422)
        assert response["status"]["message"]
        assert not {"patch", "warnings"} & set(response)
    for warning in response.get("warnings", ()):
        assert len(warning) <= 256
        assert "\n" not in warning
    return response


def patched(given: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Any]:
    assert response["patchType"] == "JSONPatch"
    return applied(given, json.loads(base64.b64decode(response["patch"], validate=True)))


def changed(given: dict[str, Any], **annotations: str) -> dict[str, Any]:
    """A Pod with these annotations of ours, too."""
    after = copy.deepcopy(given)
    after["metadata"]["annotations"].update({f"podlane.io/{k.replace('_', '-')}": v for k, v in annotations.items()})
    return after
