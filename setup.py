"""Compiles the programs of ``datapath: ebpf`` before the packages are built. All else is in pyproject.toml."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_EBPF = Path(__file__).resolve().parent / "datapath" / "ebpf"


class BuildWithPrograms(build_py):
    """The usual build, with one step before it."""

    def run(self) -> None:
        subprocess.run(["sh", str(_EBPF / "programs" / "compile"), str(_EBPF / "lane.bpf.o")], check=True)
        super().run()


setup(cmdclass={"build_py": BuildWithPrograms})
