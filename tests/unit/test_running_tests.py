"""How tests are chosen and divided: every value is tried each time, and what measures runs after the others."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import parallel
import pytest
from nightly import covering

pytestmark = pytest.mark.timeout(300)  # up to six starts of pytest, on a machine that others want

ROOT = Path(__file__).parents[2]
DIVIDED = """
import fcntl, time
import pytest

def test_it_waits(number):
    with open({path!r}, "a") as log:
        log.write("begin\\n")
        log.flush()
        time.sleep(0.1)
        log.write("end\\n")

def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(3))

@pytest.mark.alone
def test_it_measures():
    said = open({path!r}).read()
    assert said.count("end") == {tests}

@pytest.mark.nightly
def test_it_is_left_out():
    raise AssertionError
"""


def run_in(folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder as ours are run."""
    for name in ("conftest.py", "parallel.py", "durations.py", "nightly.py"):
        (folder / name).write_text((ROOT / "tests" / name).read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  measure: x\n  alone: x\n  nightly: x\n  covering: x\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--numprocesses={processes}", str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_of_three_parameters_every_pair_occurs() -> None:
    names = {"datapath": ("relay", "step-aside"), "family": (4, 6), "backend": ("nft", "legacy", "python")}
    variants = [set(zip(names, values, strict=True)) for values in product(*names.values())]
    everything = {frozenset(pair) for variant in variants for pair in combinations(variant, 2)}
    seen: set[frozenset[tuple[str, object]]] = set()
    first = covering(variants, seen)
    assert {frozenset(pair) for variant in first for pair in combinations(variant, 2)} == everything == seen
    assert len(first) < len(variants)


def test_of_two_parameters_every_value_occurs_and_tests_take_different_pairs() -> None:
    variants = [set(zip(("family", "datapath"), values, strict=True)) for values in product((4, 6), ("relay", "aside"))]
    seen: set[frozenset[tuple[str, object]]] = set()
    first, second = covering(variants, seen), covering(variants, seen)
    assert set().union(*first) == set().union(*second) == set().union(*variants)
    assert len(first) == len(second) == 2
    assert all(variant not in first for variant in second)


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_alone_runs_when_all_others_have_ended(tmp_path: Path, processes: int) -> None:
    log = str(tmp_path / "log")
    for name in ("one", "two"):
        # One after the other, a module's own tests have ended; side by side, those of all have.
        text = DIVIDED.format(path=log, tests=6 if processes or name == "two" else 3)
        (tmp_path / f"test_{name}.py").write_text(text)
    done = run_in(tmp_path, processes)
    assert "8 passed, 2 deselected" in done.stdout, done.stdout
    assert done.returncode == 0
    assert "test_one.py: 4 tests" in done.stdout


MEETING = """
import os, time
import pytest

def test_other():
    time.sleep(0.3)
    open({here!r} + ".other", "w").close()

@pytest.mark.measure
def test_it_meets_the_one_of_the_other_module():
    assert os.path.exists({here!r} + ".other") and os.path.exists({there!r} + ".other"), "the others have ended"
    open({here!r}, "w").close()
    deadline = time.monotonic() + 20
    while not os.path.exists({there!r}):
        assert time.monotonic() < deadline
        time.sleep(0.01)

@pytest.mark.alone
def test_it_is_alone():
    assert os.path.exists({here!r}) and os.path.exists({there!r})
    assert "PYTEST_XDIST_WORKER" not in os.environ
"""


def test_what_measures_runs_side_by_side_after_the_others_and_before_what_is_alone(tmp_path: Path) -> None:
    places = {name: str(tmp_path / name) for name in ("one", "two")}
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / f"test_{name}.py").write_text(MEETING.format(here=places[name], there=places[other]))
    done = run_in(tmp_path)
    assert "6 passed" in done.stdout, done.stdout
    assert done.returncode == 0
    for part in ("side by side", "few at a time", "alone"):
        assert f" s {part}; the processors were busy for " in done.stdout


def test_a_folder_whose_fixtures_serve_a_session_is_divided_into_groups_of_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallel, "recorded", lambda: {f"tests/kube/test_{n}.py": float(n) for n in range(1, 10)})
    units = parallel.Units()
    groups = {units.of(f"tests/kube/test_{n}.py::test_it[a::b]") for n in range(1, 10)}
    assert groups == {f"tests/kube/{n}" for n in range(parallel.GROUPS["tests/kube/"])}
    assert {units.seconds(f"tests/kube/test_{n}.py::test_it") for n in range(1, 10)} == {22.0, 23.0}
    assert units.of("tests/kube/test_new.py::test_it") in groups
    assert units.of("tests/kernel/test_new.py::test_it") == "tests/kernel/test_new.py"
    assert units.seconds("tests/kernel/test_new.py::test_it") > units.seconds("tests/unit/test_new.py::test_it")


@pytest.mark.parametrize(("failures", "outcome"), [(1, "2 passed"), (2, "1 failed, 1 passed")], ids=["once", "twice"])
def test_what_is_alone_and_fails_is_tried_once_more(tmp_path: Path, failures: int, outcome: str) -> None:
    (tmp_path / "test_wavers.py").write_text(
        "import pytest\ntries = []\n"
        "@pytest.fixture\ndef fresh():\n    return []\n"
        "def test_other(): pass\n"
        f"@pytest.mark.alone\ndef test_it(fresh):\n    fresh.append(1); tries.append(1)\n"
        f"    assert fresh == [1] and len(tries) > {failures}\n"
    )
    done = run_in(tmp_path)
    assert outcome in done.stdout, done.stdout
    assert "failed and is tried once more" in done.stdout


@pytest.mark.parametrize(
    ("folder", "mark", "wavering", "outcome"),
    [
        ("kernel", "", 1, "3 passed"),
        ("kernel", "", 7, "7 failed, 2 passed"),
        ("kernel", "@pytest.mark.measure\n", 7, "9 passed"),
        ("unit", "", 1, "1 failed, 2 passed"),
    ],
    ids=["a few", "many", "many that measure", "pure"],
)
def test_what_fails_next_to_others_is_tried_alone_and_named(
    tmp_path: Path, folder: str, mark: str, wavering: int, outcome: str
) -> None:
    (tmp_path / "tests" / folder).mkdir(parents=True)
    (tmp_path / "tests" / folder / "test_wavers.py").write_text(
        "import os, pytest\n"
        "def test_other(): pass\n"
        "@pytest.mark.alone\ndef test_it_is_alone(): pass\n"
        f"{mark}@pytest.mark.parametrize('number', range({wavering}))\n"
        "def test_it(number): assert 'PYTEST_XDIST_WORKER' not in os.environ, 'next to others'\n"
    )
    done = run_in(tmp_path)
    assert f" {outcome} in " in done.stdout, done.stdout
    assert "next to others" in done.stdout, "it says what failed"
    assert ("wavered: failed next to others" in done.stdout) is (done.returncode == 0)
