"""The candidates, in the order in which they are run and listed."""

from __future__ import annotations

from typing import Final

from benchmarks.candidates.base import Ability, Candidate, Running
from benchmarks.candidates.direct import Direct, DirectHtb
from benchmarks.candidates.envoy import EnvoyHcm, EnvoyTcp
from benchmarks.candidates.haproxy import HaProxy, HaProxySplice
from benchmarks.candidates.mitmproxy import MitmProxy
from benchmarks.candidates.nginx import NginxStream
from benchmarks.candidates.podlane import PodlaneEbpf, PodlaneFollow, PodlaneLibrary, PodlaneRelay, PodlaneStepAside

__all__ = ["CANDIDATES", "Ability", "Candidate", "Running"]

CANDIDATES: Final[dict[str, Candidate]] = {
    candidate.name: candidate
    for candidate in (
        Direct(),
        DirectHtb(),
        HaProxy(),
        HaProxySplice(),
        EnvoyTcp(),
        EnvoyHcm(),
        NginxStream(),
        PodlaneRelay(),
        PodlaneStepAside(),
        PodlaneEbpf(),
        PodlaneFollow(),
        MitmProxy(),
        PodlaneLibrary(),
    )
}
