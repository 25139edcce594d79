"""The certificates of injectors on a real API server: several at once, rotation, files that are replaced."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trustme
from cluster import Cluster
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from kubectl import RefusedError
from manifests import INJECTED
from release import Injector, Release
from rest import WEBHOOKS, Rest
from steady import PodCreator
from trust import KINDS, Trust, metric
from waiting import until

from daemon.kubernetes.access import from_kubeconfig
from daemon.kubernetes.api import ApiServer
from injector.server.certificates import Certificates, Lifetimes, Step, split_bundle, take_step
from injector.server.config import load_settings
from injector.server.metrics import InjectorMetrics
from injector.server.self_managed import Place, SelfManaged
from injector.server.tls import ServerTls

HASTY: Final = Lifetimes(timedelta(hours=1), timedelta(seconds=9), timedelta(seconds=2))
"""Long enough for a busy machine, and a rotation takes seconds. The authority is ageing at 40 minutes."""
HASTY_OPTIONS: Final = ("--ca-lifetime=1h", "--certificate-lifetime=9s", "--ca-overlap=2s")


@pytest.fixture
def trust(cluster: Cluster, vacant: Release) -> Iterator[Trust]:
    vacant.stop()
    rest = Rest(cluster)
    yield Trust(vacant, rest)
    rest.close()
    vacant.stop()


@pytest.fixture
def own_again(vacant: Release) -> Iterator[None]:
    """Afterwards the chart has the injectors make their certificates, as it was before."""
    yield
    vacant.stop()
    vacant.install({})


def place(trust: Trust) -> Place:
    release = trust.release
    secret = f"{release.service}-certificates"
    names = load_settings({"secret": secret, "service": release.service}).certificate_names(release.namespace)
    return Place(release.namespace, secret, names, trust.name, trust.name)


def expiry(injector: Injector, certificate: str) -> float:
    return metric(injector, "podlane_injector_certificate_expiry_timestamp_seconds", certificate=certificate)


def loads(injector: Injector, result: str) -> float:
    return metric(injector, "podlane_injector_certificate_loads_total", result=result)


# --- of their own making -----------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_of_three_that_meet_an_empty_secret_one_makes_the_authority(trust: Trust) -> None:
    """Ten times: replicas of one process, so that they really do get in each other's way."""
    access = from_kubeconfig(trust.release.kubeconfig(), None)
    failures: list[tuple[str, str, int]] = []
    made = set()
    for _ in range(10):
        trust.store(None)
        apis = [ApiServer(access, lambda *failure: failures.append(failure)) for _ in range(3)]
        replicas = [
            (SelfManaged(api, place(trust), Lifetimes(), tls := ServerTls(), InjectorMetrics()), tls) for api in apis
        ]
        async with trio.open_nursery() as nursery:
            for replica, _ in replicas:
                nursery.start_soon(replica.reconcile)
        (fingerprint,) = {tls.served.fingerprint(hashes.SHA256()).hex() for _, tls in replicas if tls.served}
        held = trust.stored()
        assert fingerprint == held.serving.x509.fingerprint(hashes.SHA256()).hex()
        assert split_bundle(trust.bundle()) == split_bundle(held.bundle)
        made.add(held.authority.certificate)
        for api in apis:
            await api.aclose()
    assert len(made) == 10
    assert ("update", "secrets", 409) in failures, "none came second, so nothing was tried"


def test_two_injectors_that_start_together_on_an_empty_secret_serve_one_authority(
    cluster: Cluster, trust: Trust
) -> None:
    namespace = cluster.namespace(INJECTED).namespace
    for _ in range(2):
        trust.store(None)
        for kind in KINDS:
            trust.set_bundle(kind, b"")
        both = trust.release.start_together(2)
        authority = trust.stored().authority.x509
        for injector in both:
            trust.served(injector).verify_directly_issued_by(authority)
        assert split_bundle(trust.bundle()) == split_bundle(trust.stored().authority.certificate)
        trust.release.serve(both)
        for injector in both:
            trust.release.address.endpoints = (injector.port,)
            with PodCreator(cluster, namespace) as creator:
                creator.more(5)
            assert creator.outcomes.keys() == {"injected"}
        trust.release.stop()


def bundles_since(rest: Rest, version: str, name: str, last: frozenset[bytes]) -> Iterator[frozenset[bytes]]:
    """What each change of the mutating configuration made of ``caBundle``, up to ``last``."""
    for _, configuration in rest.history(f"{WEBHOOKS}/{KINDS[0]}", version, fieldSelector=f"metadata.name={name}"):
        (bundle,) = {split_bundle(base64.b64decode(w["clientConfig"]["caBundle"])) for w in configuration["webhooks"]}
        yield bundle
        if bundle == last:
            return


def test_an_authority_is_replaced_while_pods_are_created(cluster: Cluster, trust: Trust) -> None:
    names = place(trust).names
    now = datetime.now(UTC)
    soon_ageing = take_step(Step.CREATE, None, now - timedelta(minutes=39, seconds=57), names, HASTY)
    first = take_step(Step.RENEW, soon_ageing, now, names, HASTY)
    trust.store(first)
    old = first.authority.certificate.strip()
    for kind in KINDS:
        trust.set_bundle(kind, first.authority.certificate)
    version = trust.rest.version(f"{WEBHOOKS}/{KINDS[0]}")
    both = trust.release.start_together(2, *HASTY_OPTIONS)
    trust.release.serve(both)
    expired_first = [(expiry(injector, "authority"), expiry(injector, "serving")) for injector in both]

    def all_serve_what_another_signed() -> Certificates | None:
        serving = [trust.served(injector) for injector in both]  # each time trusted by the bundle of this moment
        held = trust.stored()
        signed = all(certificate.issuer == held.authority.x509.subject for certificate in serving)
        return held if signed and held.authority != first.authority else None

    def is_forgotten() -> bool:
        for injector in both:
            trust.served(injector)
        return all(old not in split_bundle(bundle) for bundle in trust.bundles())  # for a moment they differ

    with PodCreator(cluster, cluster.namespace(INJECTED).namespace) as creator:
        changed = until("the change of authority", all_serve_what_another_signed, patience=30)
        until("the old authority to be forgotten", is_forgotten, patience=30)
        for injector in both:
            until("a renewed certificate", lambda: loads(injector, "loaded") >= 3)  # noqa: B023
        creator.more()
    assert creator.outcomes.keys() == {"injected"}

    new = changed.authority.certificate.strip()
    history = list(dict.fromkeys(bundles_since(trust.rest, version, trust.name, frozenset({new}))))
    assert history == [frozenset({old, new}), frozenset({new})], "the new one is trusted first, the old one for a while"
    for injector, (authority, serving) in zip(both, expired_first, strict=True):
        assert expiry(injector, "authority") > authority
        assert expiry(injector, "serving") > serving
        assert '"event": "ready"' in injector.daemon.output
        assert '"event": "not ready"' not in injector.daemon.output


# --- from files --------------------------------------------------------------------------------------------------------


class Mounted:
    """A Secret of the type kubernetes.io/tls as the kubelet mounts it: files that lead through a link, which is swapped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")

    @property
    def options(self) -> tuple[str, str]:
        return f"--certificate={self._folder / 'tls.crt'}", f"--key={self._folder / 'tls.key'}"

    def put(self, certificate: bytes, key: bytes) -> None:
        self._number += 1
        fresh = self._folder / f"..{self._number}"
        fresh.mkdir()
        (fresh / "tls.crt").write_bytes(certificate)
        (fresh / "tls.key").write_bytes(key)
        (self._folder / "..data_tmp").symlink_to(fresh.name)
        os.replace(self._folder / "..data_tmp", self._folder / "..data")


def issue(authority: trustme.CA, host: str) -> tuple[bytes, bytes]:
    made = authority.issue_cert(host)
    return made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()


def given(*authorities: trustme.CA) -> dict[str, Any]:
    """Values for certificates of one's own, trusted by these."""
    bundle = "".join(authority.cert_pem.bytes().decode() for authority in authorities)
    return {"certificates": {"source": "secret", "secretName": "podlane-tls", "caBundle": bundle}}


@pytest.mark.usefixtures("own_again")
def test_files_that_are_replaced_are_served_at_once(cluster: Cluster, trust: Trust, tmp_path: Path) -> None:
    """First by another certificate of the same authority, then by one of another; a pair that does not fit changes nothing."""
    release, mounted = trust.release, Mounted(tmp_path)
    one, other = trustme.CA(), trustme.CA()
    release.install(given(one), "--force-conflicts")  # caBundle was the injectors' own until now
    mounted.put(*issue(one, trust.host))
    both = release.start_together(2, *mounted.options)
    release.serve(both)

    def serve(certificate: bytes) -> bool:
        wanted = x509.load_pem_x509_certificate(certificate)
        return all(trust.served(injector) == wanted for injector in both)

    with PodCreator(cluster, cluster.namespace(INJECTED).namespace) as creator:
        mounted.put(*(renewed := issue(one, trust.host)))
        until("the renewed certificate", lambda: serve(renewed[0]))
        creator.more()

        mounted.put(issue(one, trust.host)[0], renewed[1])
        for injector in both:
            until("a complaint", lambda: "do not belong together" in injector.daemon.output)  # noqa: B023
            assert loads(injector, "failed") == 1
        assert serve(renewed[0]), "the old one stays"

        release.install(given(one, other))
        mounted.put(*(others := issue(other, trust.host)))
        until("the other authority's certificate", lambda: serve(others[0]))
        release.install(given(other))
        creator.more()
    assert creator.outcomes.keys() == {"injected"}
    assert trust.bundle() == other.cert_pem.bytes()
    for injector in both:
        assert expiry(injector, "serving") == x509.load_pem_x509_certificate(others[0]).not_valid_after_utc.timestamp()


@pytest.mark.usefixtures("own_again")
def test_certificates_change_hands(trust: Trust, tmp_path: Path) -> None:
    """From the injectors' own to given ones, and back."""
    release, mounted, authority = trust.release, Mounted(tmp_path), trustme.CA()
    mounted.put(*issue(authority, trust.host))
    release.serve([release.start()])
    own = trust.bundle()
    with pytest.raises(RefusedError, match=r'conflicts with \\?"podlane-injector(.|\n)*caBundle'):
        release.install(given(authority))
    assert trust.bundle() == own
    release.install(given(authority), "--force-conflicts")
    release.serve([release.start(*mounted.options)])
    assert trust.bundle() == authority.cert_pem.bytes()
    assert trust.rest.ask("GET", trust.secret)[0] == HTTPStatus.NOT_FOUND, "the keys do not stay behind"
    release.stop()
    release.install({})
    release.serve([release.start()])
    assert split_bundle(trust.bundle()) == split_bundle(trust.stored().bundle)
