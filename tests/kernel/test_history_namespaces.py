"""Network namespaces have names that are never given twice, even when their inodes are."""

from __future__ import annotations

import pytest

from tc_core.history import describe_self, this_namespace
from tc_core.probe.scratch import in_scratch_namespace

pytestmark = pytest.mark.root


def test_each_namespace_has_a_name_of_its_own_for_ever() -> None:
    outside = this_namespace()
    # Each is gone before the next is made, and the kernel may give its inode to that; the cookies alone tell them apart.
    names = [outside, *(in_scratch_namespace(this_namespace) for _ in range(20))]
    boots, _, cookies = zip(*(name.split("/") for name in names), strict=True)
    assert len(set(cookies)) == 21
    assert len(set(boots)) == 1
    assert this_namespace() == outside


def test_a_thread_in_another_namespace_is_still_this_process() -> None:
    assert in_scratch_namespace(describe_self) == describe_self()
