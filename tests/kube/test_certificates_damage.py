"""What somebody deletes, empties or garbles is put right by the injectors that run, and no Pod waits for it longer than that."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from cluster import Cluster
from kubectl import Kubectl, RefusedError
from manifests import INJECTED
from release import ATTENTIVE, Injector, Release
from rest import Rest
from steady import PodCreator
from trust import KINDS, Trust
from waiting import until

from daemon.errors import CertificateError
from injector.server.certificates import Certificates, split_bundle

HEALED_WITHIN: Final = 10.0
"""Seconds, on a busy machine."""


@pytest.fixture(scope="module")
def both(vacant: Release) -> Iterator[list[Injector]]:
    """Two injectors that know what was there before the damage."""
    injectors = vacant.start_together(2, ATTENTIVE)
    vacant.serve(injectors)
    yield injectors
    vacant.stop()


@pytest.fixture
def trust(cluster: Cluster, both: list[Injector], vacant: Release) -> Iterator[Trust]:
    rest = Rest(cluster)
    made = Trust(vacant, rest)
    yield made
    for injector in both:
        made.served(injector)
        assert '"event": "not ready"' not in injector.daemon.output
    rest.close()


def whole(trust: Trust) -> Certificates | None:
    """What the Secret holds, None while it is damaged."""
    try:
        return trust.stored()
    except (CertificateError, AssertionError):
        return None


@pytest.mark.parametrize("damage", ["deleted", "emptied", "a certificate is garbled", "a key is gone"])
def test_a_secret_is_written_again_and_no_pod_is_refused(cluster: Cluster, trust: Trust, damage: str) -> None:
    before = trust.stored()
    changes: dict[str, Mapping[str, Any]] = {
        "emptied": {"data": None},
        "a certificate is garbled": {"data": {"tls.crt": base64.b64encode(b"no certificate").decode()}},
        "a key is gone": {"data": {"ca.key": None}},
    }
    with PodCreator(cluster, cluster.namespace(INJECTED).namespace) as creator:
        if damage == "deleted":
            trust.release.kubectl("delete", "secret", trust.secret.rpartition("/")[2])
        else:
            trust.rest.patch(trust.secret, changes[damage])
        assert until("a whole Secret", lambda: whole(trust), patience=HEALED_WITHIN) == before
        creator.more()
    assert creator.outcomes.keys() == {"injected"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bundle", [b"", b"rubbish", None], ids=["emptied", "rubbish", "another authority"])
def test_a_bundle_is_put_right(cluster: Cluster, trust: Trust, kind: str, bundle: bytes | None) -> None:
    wanted = trust.bundle()
    trust.set_bundle(kind, cluster.pki.bundle.read_bytes() if bundle is None else bundle)
    until("the right bundle", lambda: trust.bundles() == {wanted}, patience=HEALED_WITHIN)
    with PodCreator(cluster, cluster.namespace(INJECTED).namespace) as creator:
        until("Pods", lambda: creator.outcomes["injected"])
    refusals = creator.outcomes.keys() - {"injected"}
    assert all("x509" in reason or "failed calling webhook" in reason for reason in refusals), refusals


def test_injectors_may_make_their_own_secret_and_no_other(cluster: Cluster, trust: Trust) -> None:
    kubectl = Kubectl(cluster.tools.kubectl, trust.release.kubeconfig(), trust.release.namespace)
    own = trust.secret.rpartition("/")[2]
    held = trust.stored()
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(secret(own)))
    assert trust.stored() == held, "what it holds stays"
    for name, arguments in (("another", ["apply", "--server-side", "-f", "-"]), (own, ["create", "-f", "-"])):
        with pytest.raises(RefusedError, match=r'cannot (patch|create) resource "secrets"'):
            kubectl(*arguments, stdin=json.dumps(secret(name)))
    assert split_bundle(trust.bundle()) == split_bundle(held.bundle)


def secret(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": name}}
