"""Fixtures of the tests of the image: a container engine, the image as the Dockerfile makes it, a Pod's namespace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kernel"))  # lab.py: servers in namespaces

from engine import BASE, Engine, NoEngineError, Pod, start_engine

from podlane.netns import Lab


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A container engine of its own, for all tests of the image."""
    try:
        started = start_engine()
    except NoEngineError as error:
        pytest.skip(str(error))
    with started as running:
        yield running


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The image's name, built from this checkout."""
    return engine.build("podlane:test")


@pytest.fixture
def pod(engine: Engine, image: str) -> Iterator[Pod]:  # noqa: ARG001 (building makes the base image)
    """A Pod's network namespace, held by a container that does nothing, with a node and a server behind it."""
    with Lab("image") as lab:
        made = Pod.create(engine, lab, BASE)
        try:
            yield made
        finally:
            made.remove()
