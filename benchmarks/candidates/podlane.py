"""Podlane itself, as users run it: ``podlane sidecar`` with a policy, metrics on, in all datapaths."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version as installed_version
from typing import Any, Final

import yaml

from benchmarks.candidates.base import Ability, Candidate, Running, stop
from benchmarks.errors import CandidateError
from benchmarks.policies import BenchPolicy
from benchmarks.stage import Stage
from datapath.ebpf.features import reason_against

_SIDECAR: Final = (sys.executable, "-m", "podlane", "sidecar")


@cache
def _options() -> str:
    """What ``podlane sidecar --help`` says."""
    return subprocess.run([*_SIDECAR, "--help"], capture_output=True, text=True, check=False).stdout


class PodlaneRelay(Candidate):
    """The default datapath: every captured connection is relayed."""

    name = "podlane-relay"
    title = "Podlane relay"
    options: tuple[str, ...] = ()
    """Of the command line; ``{folder}`` stands for the stage's."""

    def document(self, policy: BenchPolicy) -> dict[str, Any]:
        """The policy that it runs with."""
        return policy.document()

    def pinned(self, stage: Stage) -> list[str]:
        """What puts it on its CPU."""
        return stage.pinned(stage.placement.proxy)

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return installed_version("podlane")

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:
        path = stage.folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(self.document(policy), sort_keys=False))
        (stage.folder / f"{self.name}.log").unlink(missing_ok=True)
        ready, theirs = os.pipe()
        with stage.log(self.name) as stream:
            process = stage.pod.popen(
                [
                    *(*self.pinned(stage), *_SIDECAR, "--policy", str(path)),
                    *("--ready-fd", str(theirs), "--grace", "0s"),
                    *(option.format(folder=stage.folder) for option in self.options),
                ],
                stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, pass_fds=[theirs], process_group=0,
            )  # fmt: skip
        os.close(theirs)
        try:
            with os.fdopen(ready) as pipe:
                if not pipe.readline():
                    raise CandidateError(f"{self.name} did not come up. It said: {stage.last_words(self.name)}")
            yield Running(process.pid)
            if process.poll() is not None:
                words = stage.last_words(self.name)
                raise CandidateError(f"{self.name} ended with {process.returncode}. It said: {words}")
        finally:
            stop(process)
            if process.returncode:
                # It did not tidy up: the next candidate must not run under its rules.
                stage.pod.run([*_SIDECAR, "--cleanup"], check=False)


class PodlaneFollow(PodlaneRelay):
    """The relay, with every request of an HTTP/1 connection looked at: what that costs against it being off."""

    name = "podlane-follow"
    title = "Podlane relay, every request"

    def document(self, policy: BenchPolicy) -> dict[str, Any]:
        return {**policy.document(), "requests": "follow"}

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset({Ability.HTTP1, Ability.PROXY})


class PodlaneStepAside(PodlaneRelay):
    """The first packets are classified, the connection is never proxied."""

    name = "podlane-step-aside"
    title = "Podlane step aside"
    options = ("--datapath", "step-aside")

    def missing(self) -> str | None:
        return None if "--datapath" in _options() else "This version of podlane has no --datapath step-aside"


class PodlaneEbpf(PodlaneRelay):
    """Programs in the kernel read first packets."""

    name = "podlane-ebpf"
    title = "Podlane ebpf"
    options = ("--datapath", "ebpf")

    def missing(self) -> str | None:
        return reason_against() or None  # it would step aside, and be measured as that


class PodlaneLibrary(Candidate):
    """The parts that can be measured by themselves: reconciling and detection."""

    name = "podlane-library"
    title = "Podlane, its parts"

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset({Ability.LIBRARY})

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return installed_version("podlane")

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:  # noqa: ARG002
        yield Running(None)
