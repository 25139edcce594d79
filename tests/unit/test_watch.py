"""Files that are watched: how people, editors and the kubelet change them, and what is never told too early."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from captured_logs import capture_logs
from downward import Volume
from trio.testing import MockClock

from daemon import file_watch, inotify
from daemon.file_watch import CHANGING_S, QUIET_S, UNCLOSED_S, WRITING_S, Settling, follow, steps
from daemon.inotify import InotifyEvent, parse

OLD, NEW = "the old text", "the new text"
PATIENCE = 5.0


class Told:
    """What stood in a file each time when its change was told."""

    def __init__(self, path: Path) -> None:
        self.texts: list[str | None] = []
        self._path = path
        self._news = trio.Event()

    def __call__(self) -> None:
        self.texts.append(self._path.read_text() if self._path.exists() else None)
        self._news.set()
        self._news = trio.Event()

    async def until(self, text: str | None) -> None:
        with trio.fail_after(PATIENCE):
            while not self.texts or self.texts[-1] != text:
                await self._news.wait()


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[Told]:
    told = Told(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, lambda: [path], told)
        with trio.fail_after(PATIENCE):
            while not told.texts:
                await trio.lowlevel.checkpoint()
        yield told
        nursery.cancel_scope.cancel()


def plain(folder: Path) -> Path:
    path = folder / "policy.yaml"
    path.write_text(OLD)
    return path


def by_link(folder: Path) -> Path:
    """The file is elsewhere, and so is the folder that has it."""
    (folder / "real/inner").mkdir(parents=True)
    (folder / "real/inner/file").write_text(OLD)
    (folder / "way").symlink_to("real")
    path = folder / "policy.yaml"
    path.symlink_to("way/../way/inner/file")
    return path


def volume(folder: Path) -> Path:
    made = Volume(folder / "volume", "annotations", OLD)
    return made.file


def in_place(path: Path) -> None:
    path.write_text(NEW)


def renamed(path: Path) -> None:
    path.with_name("fresh").write_text(NEW)
    path.with_name("fresh").replace(path)


def anew(path: Path) -> None:
    path.unlink()
    path.write_text(NEW)


def as_vim_does(path: Path) -> None:
    backup = path.with_name("policy.yaml~")
    path.rename(backup)
    path.write_text(NEW)
    path.chmod(0o600)
    backup.unlink()


def appended(path: Path) -> None:
    path.write_text(NEW[:3])
    with path.open("a") as stream:
        stream.write(NEW[3:])


def another_name(path: Path) -> None:
    os.link(path.resolve(), path.with_name("other"))
    path.with_name("other").write_text(NEW)


def another_link(path: Path) -> None:
    path.with_name("target").write_text(NEW)
    path.unlink()
    path.symlink_to("target")


def another_folder(path: Path) -> None:
    """The way leads by a link to a folder, and that is exchanged."""
    folder = path.parent
    (folder / "next/inner").mkdir(parents=True)
    (folder / "next/inner/file").write_text(NEW)
    (folder / "link").symlink_to("next")
    (folder / "link").replace(folder / "way")


def behind_links(path: Path) -> None:
    path.resolve().write_text(NEW)


def as_the_kubelet_does(path: Path) -> None:
    version = path.parent / "..version_2"
    version.mkdir()
    (version / path.name).write_text(NEW)
    (path.parent / "..data_tmp").symlink_to(version.name)
    (path.parent / "..data_tmp").replace(path.parent / "..data")


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (plain, in_place),
        (plain, renamed),
        (plain, anew),
        (plain, as_vim_does),
        (plain, appended),
        (plain, another_name),
        (plain, another_link),
        (by_link, behind_links),
        (by_link, another_folder),
        (volume, as_the_kubelet_does),
    ],
    ids=lambda function: function.__name__,
)
@pytest.mark.trio
async def test_a_change_is_told_once_it_is_whole(
    tmp_path: Path, make: Callable[[Path], Path], change: Callable[[Path], None]
) -> None:
    path = make(tmp_path)
    async with watching(path) as told:
        assert told.texts == [OLD]
        begun = trio.current_time()
        change(path)
        await told.until(NEW)
        assert trio.current_time() - begun < 2.0, "by inotify, not by a look now and then"
        assert told.texts == [OLD, NEW]
        # And what is there now is what is watched now.
        path.resolve().write_text(OLD)
        await told.until(OLD)


@pytest.mark.trio
async def test_a_file_that_goes_and_comes(tmp_path: Path) -> None:
    path = plain(tmp_path)
    async with watching(path) as told:
        path.unlink()
        await told.until(None)
        path.write_text(NEW)
        await told.until(NEW)


@pytest.mark.trio
async def test_other_files_in_the_folder_tell_nothing(tmp_path: Path) -> None:
    path = plain(tmp_path)
    async with watching(path) as told:
        for number in range(20):
            (tmp_path / f"log{number}").write_text("x")
        in_place(path)
        await told.until(NEW)
        assert told.texts == [OLD, NEW]


@pytest.mark.trio
async def test_a_folder_that_comes_later_is_found_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_S", 0.05)
    path = tmp_path / "later/policy.yaml"
    async with watching(path) as told:
        path.parent.mkdir()
        path.write_text(NEW)
        await told.until(NEW)
        path.write_text(OLD)
        await told.until(OLD)


@pytest.mark.trio
async def test_without_inotify_files_are_looked_at_and_one_warning_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,  # noqa: ARG001 (takes no time)
) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(file_watch, "Inotify", none_left)
    path = plain(tmp_path)
    with capture_logs() as logs:
        async with watching_slowly(path) as told:
            for text in (NEW, "another text"):
                path.write_text(text)
                await told.until(text)
            path.unlink()
            await told.until(None)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "fs.inotify.max_user_instances" in logs[0]["remedy"]
    assert trio.current_time() > 4 * file_watch.LOOK_ONLY_S


@pytest.mark.trio
async def test_no_room_for_another_watch_is_warned_of_once_and_changes_are_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_watch, "LOOK_S", 0.05)
    path = plain(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with capture_logs() as logs:
        async with watching(path) as told:
            monkeypatch.setattr(inotify.Inotify, "add", full)
            for text in (NEW, OLD, NEW):
                renamed(path)
                path.write_text(text)
                await told.until(text)
    assert [(line["log_level"], line["error"]) for line in logs] == [("warning", "No space left on device")]


@asynccontextmanager
async def watching_slowly(path: Path) -> AsyncIterator[Told]:
    told = Told(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, lambda: [path], told)
        await told.until(OLD)
        yield told
        nursery.cancel_scope.cancel()


# --- when a change is over: pure -------------------------------------------------------------------------------------

MODIFY, CLOSE, MOVED, CREATE, ATTRIB = (
    inotify.MODIFY, inotify.CLOSE_WRITE, inotify.MOVED_TO, inotify.CREATE, inotify.ATTRIB,
)  # fmt: skip
MADE = -1


def due(events: Sequence[tuple[float, int]]) -> float:
    """The time at which a change is told; the past is told at once."""
    settling = Settling()
    for at, mask in events:
        settling.note(at, CREATE if mask == MADE else mask, created=mask == MADE)
    return max(settling.due, *(at for at, _ in events), 0)


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], float("inf")),
        ([(1, MOVED)], 1),
        ([(1, CREATE), (1.01, MOVED)], 1.01),
        ([(1, ATTRIB)], 1 + QUIET_S),
        ([(1, MODIFY), (1.1, CLOSE)], 1.1 + QUIET_S),
        ([(1, CLOSE), (1.04, CLOSE), (1.08, CLOSE), (1.12, CLOSE), (1.16, CLOSE), (1.19, CLOSE)], 1 + CHANGING_S),
        ([(1, MODIFY)], 1 + UNCLOSED_S),
        ([(1, MADE)], 1 + UNCLOSED_S),
        ([(1, MADE), (1.3, MODIFY), (1.6, CLOSE)], 1.6),
        ([(1, CLOSE), (1.01, MODIFY)], 1.01 + UNCLOSED_S),
        ([(1, MOVED), (1, MODIFY)], 1 + UNCLOSED_S),
        ([(1 + each / 4, MODIFY) for each in range(12)], 1 + WRITING_S),
        ([(1, MODIFY), (1.1, ATTRIB)], 1.1 + UNCLOSED_S),
    ],
    ids=[
        "nothing", "moved into its place", "made and moved", "touched", "written and closed", "closed again and again",
        "not closed", "made and not closed", "made, written slowly, closed", "closed and opened again",
        "moved while it is written", "written for ever", "touched while it is written",
    ],
)  # fmt: skip
def test_when_a_change_is_over(events: Sequence[tuple[float, int]], seconds: float) -> None:
    assert due(events) == pytest.approx(seconds)


def test_the_steps_of_a_way_are_where_a_name_decides(tmp_path: Path) -> None:
    path = by_link(tmp_path)
    root = tmp_path.resolve()
    found = [step for step in steps(path) if root in (step[0], *step[0].parents)]
    assert found == [
        (root, "policy.yaml"), (root, "way"), (root, "way"), (root / "real/inner", "file"),
    ]  # fmt: skip
    (tmp_path / "circle").symlink_to("circle")
    assert {step for step in steps(tmp_path / "circle") if step[0] == root} == {(root, "circle")}
    assert list(steps(Path("/nowhere/at/all"))) == [(Path("/nowhere/at"), "all")]


def test_events_as_the_kernel_packs_them() -> None:
    def packed(watch: int, mask: int, name: bytes) -> bytes:
        return struct.pack("iIII", watch, mask, 0, len(name)) + name

    data = packed(1, MOVED, b"..data\0\0\0\0\0\0\0\0\0\0") + packed(2, MODIFY, b"") + packed(-1, inotify.OVERFLOW, b"")
    assert list(parse(data)) == [
        InotifyEvent(1, MOVED, "..data"), InotifyEvent(2, MODIFY, ""), InotifyEvent(-1, inotify.OVERFLOW, ""),
    ]  # fmt: skip
