"""What the tests of the chart need: helm, and Go's client for downloading the schemas."""

from __future__ import annotations

import pytest
import rendering
import schemas


@pytest.fixture(autouse=True, scope="session")
def _helm() -> None:
    if rendering.helm_path() is None:
        pytest.skip("there is no helm; build it by tools/kube-tools helm, or name it in PODLANE_HELM")


@pytest.fixture(scope="session")
def _schemas() -> None:
    if reason := schemas.why_not():
        pytest.skip(reason)
