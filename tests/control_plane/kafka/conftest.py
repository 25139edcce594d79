"""One broker for the tests of a session: it takes seconds to start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from broker import Broker, jars

_numbers = count()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    libraries = jars()
    if libraries is None or shutil.which("java") is None:
        pytest.skip("Kafka is not here: tools/kafka, and a Java runtime (apt-get install default-jre-headless)")
    running = Broker(Path(tmp_path_factory.mktemp("kafka")), libraries)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def topic() -> str:
    """The name of one that no other test has."""
    return f"podlane.events.{next(_numbers)}"
