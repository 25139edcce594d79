"""The house stays in order: no circles of imports, small rooms, one class for one name, modules one can read."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "traffic_policy", "tc_core", "datapath", "daemon", "sidecar", "injector", "node_agent", "fleet_api", "control_plane",
    "cluster_operator", "podlane",
)  # fmt: skip
MOST_MODULES = 22
MOST_LINES = 500


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the product by its dotted name."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports anywhere: in functions and under TYPE_CHECKING, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


def test_imports_make_no_circle() -> None:
    graph = {name: set(imported(tree)) & modules().keys() - {name} for name, tree in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"These modules import each other: {' <- '.join(error.args[1])}")


def test_rooms_are_small() -> None:
    rooms = Counter(path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert {str(room): count for room, count in rooms.items() if count > MOST_MODULES} == {}


def test_modules_can_be_read() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_no_two_public_classes_have_one_name() -> None:
    places = defaultdict(list)
    for name, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert {cls: where for cls, where in places.items() if len(where) > 1} == {}


def test_constructors_say_what_they_take() -> None:
    """``parse`` or ``from_x``, never ``of``."""
    vague = [
        f"{name}: {node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "of"
    ]
    assert vague == []


def test_the_image_and_the_wheel_have_every_package() -> None:
    shown = (ROOT / ".dockerignore").read_text().splitlines()
    assert [name for name in PACKAGES if f"!{name}" not in shown] == []
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert found == [f"{name}*" for name in PACKAGES]
