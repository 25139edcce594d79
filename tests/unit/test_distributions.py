"""The wheel and the source distribution that ``python -m build`` makes have what they should, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
FILES = [
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "SECURITY.md",
    "constraints.txt",
]
STEM = f"podlane-{PROJECT['project']['version']}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both, made from a copy, since setuptools writes into the tree that it builds."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in FILES:
        shutil.copy(ROOT / name, source)
    for folder in (*PACKAGES, "benchmarks", "docs", "tests"):  # the last three are to be left out
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return target


@pytest.fixture(scope="module")
def in_packages() -> set[str]:
    """Every file of the packages that are distributed: modules, type markers, data."""
    return {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_is_the_packages_with_their_data(built: Path, in_packages: set[str]) -> None:
    with zipfile.ZipFile(built / f"{STEM}-py3-none-any.whl") as wheel:
        found = {name for name in wheel.namelist() if not name.startswith(f"{STEM}.dist-info/")}
        entry_points = wheel.read(f"{STEM}.dist-info/entry_points.txt").decode()
        metadata = wheel.read(f"{STEM}.dist-info/METADATA").decode()
    assert found == in_packages
    assert "podlane = podlane.main:main" in entry_points
    assert "License-Expression: Apache-2.0" in metadata
    assert {f"Provides-Extra: {extra}" for extra in PROJECT["project"]["optional-dependencies"]} <= set(
        metadata.splitlines()
    )


def test_each_package_says_that_it_is_typed_and_brings_its_data(in_packages: set[str]) -> None:
    """What the wheel is compared with has something in it that is no module."""
    assert {f"{package}/py.typed" for package in PACKAGES} <= in_packages
    for data in ("lane.bpf.c", "services.tsv", "web-server.yaml", "both-ways.yaml"):
        assert [name for name in in_packages if name.endswith(f"/{data}")], data


def test_the_source_distribution_has_what_the_wheel_is_made_of(built: Path, in_packages: set[str]) -> None:
    with tarfile.open(built / f"{STEM}.tar.gz") as archive:
        names = {member.name.removeprefix(f"{STEM}/") for member in archive.getmembers() if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    in_packages = {name for name in in_packages if not name.endswith(".bpf.o")}  # compiled where the wheel is built
    assert {name for name in names if not name.startswith("podlane.egg-info/")} - made == in_packages | set(FILES)


def test_the_version_is_one(built: Path) -> None:
    """The package's, the chart's, and the newest of the changelog."""
    version = PROJECT["project"]["version"]
    chart = (ROOT / "charts/podlane/Chart.yaml").read_text()
    assert f"\nversion: {version}\n" in chart
    assert f"\nappVersion: {version}\n" in chart
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert next(line for line in headings if line != "## Unreleased").split()[1] == version
    assert f"podlane:{version}" in (ROOT / "docs/how-to/install.md").read_text()
    assert (built / f"{STEM}.tar.gz").is_file()
