"""Chromium, signed in to a control plane, and what it says of its pages by the DevTools protocol."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import BrowserContext, CDPSession, Error, Page, Playwright, Response, ViewportSize

from benchmarks.errors import BenchmarkError, CandidateError
from benchmarks.web.figures import kept_bytes

LIGHTHOUSE: Final = Path(__file__).parent / "lighthouse"
NO_LIGHTHOUSE: Final = f"Lighthouse is not installed: npm ci --prefix {LIGHTHOUSE.relative_to(LIGHTHOUSE.parents[2])}"
_OPTIONS: Final = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
"""Without its sandbox, which root cannot have. It loads pages of ours alone."""
_SCREEN: Final = ViewportSize(width=1440, height=900)
_PATIENCE: Final = 120_000.0
"""Milliseconds."""
_SETTLE: Final = 3.0
"""Seconds, for what moves after a page is there."""
_CATEGORIES: Final = ("performance", "accessibility", "best-practices")
_WATCH: Final = """(() => {
    const told = window.benchmark = {shift: 0};
    new PerformanceObserver(list => {
        for (const each of list.getEntries()) if (!each.hadRecentInput) told.shift += each.value;
    }).observe({type: 'layout-shift', buffered: true});
    told.seen = new Promise((done, failed) => {
        const look = () => {
            const now = performance.now();
            if (document.querySelector('SELECTOR') && !document.querySelector('main .skeleton')) done(now);
            else if (now > PATIENCE) failed(new Error('it is not there after PATIENCE ms'));
            else requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    });
})()"""


def chromium() -> str:
    """Its program. Raises :class:`BenchmarkError`."""
    found = shutil.which("chromium")
    if found is None:
        raise BenchmarkError("Chromium is not installed: apt-get install chromium")
    return found


def lighthouse_version() -> str | None:
    """Of what was installed by ``npm ci`` in our folder; None: it was not."""
    try:
        about = json.loads((LIGHTHOUSE / "node_modules" / "lighthouse" / "package.json").read_text())
    except OSError:
        return None
    return f"Lighthouse {about['version']}"


class Chromium:
    """Starts a browser with an empty profile for each visit: nothing is known from before."""

    def __init__(self, programs: Playwright, url: str, token: str) -> None:
        self._programs = programs
        self._url = url
        self._token = token

    @contextmanager
    def visit(self, *options: str) -> Iterator[BrowserContext]:
        """Signed in, with no page of ours loaded yet."""
        with tempfile.TemporaryDirectory(prefix="podlane-bench-") as profile:
            context = self._programs.chromium.launch_persistent_context(
                profile, executable_path=chromium(), args=[*_OPTIONS, *options], viewport=_SCREEN,
            )  # fmt: skip
            try:
                answer = context.request.post(
                    f"{self._url}/v1/session", headers={"Authorization": f"Bearer {self._token}"}
                )
                if not answer.ok:
                    raise CandidateError(f"signing in: {answer.status} {answer.text()[:300]}")
                yield context
            finally:
                context.close()

    def view(self, path: str, selector: str) -> dict[str, float]:
        """Load a page cold until something matches ``selector``, and no placeholder is left."""
        with self.visit() as context:
            page = context.new_page()
            sizes: list[int] = []

            def note(response: Response) -> None:
                if response.request.resource_type == "script":
                    sizes.append(int(response.headers.get("content-length", "0")))

            page.on("response", note)
            seen = self._go(page, path, selector)
            page.wait_for_timeout(_SETTLE * 1e3)
            shift = page.evaluate("benchmark.shift")
        return {"seconds": seen / 1e3, "shift": shift, "script_kb": sum(sizes) / 1e3}

    def main_thread(self, path: str, selector: str, slowed: int, seconds: float) -> dict[str, float]:
        """How long its main thread is busy in a second, while figures come."""
        with self._loaded(path, selector) as (page, tools):
            tools.send("Emulation.setCPUThrottlingRate", {"rate": slowed})
            page.wait_for_timeout(_SETTLE * 1e3)
            before, began = _metric(tools, "TaskDuration"), time.monotonic()
            page.wait_for_timeout(seconds * 1e3)
            busy, took = _metric(tools, "TaskDuration") - before, time.monotonic() - began
        return {"ms_per_s": busy * 1e3 / took}

    def heap(self, path: str, selector: str, warm: float, minutes: float) -> dict[str, float]:
        """Growth after ``warm`` seconds, in which the page fills what it keeps: of the whole heap, which has the code
        that V8 makes of functions as they are used, and of the page's own objects alone."""
        with self._loaded(path, selector) as (page, tools):
            page.wait_for_timeout(warm * 1e3)
            start, kept = _heap(tools), _kept(tools)
            page.wait_for_timeout(minutes * 60e3)
            end, kept_then = _heap(tools), _kept(tools)
        return {
            "start_mib": start / (1 << 20),
            "growth": (end - start) / start * 100,
            "kept_mib": kept / (1 << 20),
            "kept_growth": (kept_then - kept) / kept * 100,
        }

    def lighthouse(self, path: str) -> dict[str, float]:
        """Its scores, of 100; as a desktop computer is simulated by it."""
        port = _free_port()
        with self.visit(f"--remote-debugging-port={port}"), tempfile.TemporaryDirectory() as folder:
            told = Path(folder) / "report.json"
            done = subprocess.run(
                [
                    LIGHTHOUSE / "node_modules" / ".bin" / "lighthouse", f"{self._url}{path}", f"--port={port}",
                    "--hostname=127.0.0.1", "--preset=desktop", f"--only-categories={','.join(_CATEGORIES)}",
                    "--output=json", f"--output-path={told}", "--quiet", "--disable-storage-reset",
                    "--no-enable-error-reporting",
                ],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise CandidateError(f"lighthouse failed: {done.stderr.strip()[-500:]}")
            found = json.loads(told.read_text())
        if error := found.get("runtimeError"):
            raise CandidateError(f"lighthouse: {error.get('message')}")
        return {name: found["categories"][name]["score"] * 100 for name in _CATEGORIES}

    @contextmanager
    def _loaded(self, path: str, selector: str) -> Iterator[tuple[Page, CDPSession]]:
        with self.visit() as context:
            page = context.new_page()
            self._go(page, path, selector)
            tools = context.new_cdp_session(page)
            tools.send("Performance.enable")
            yield page, tools

    def _go(self, page: Page, path: str, selector: str) -> float:
        """After so many milliseconds it was there."""
        page.add_init_script(_WATCH.replace("SELECTOR", selector).replace("PATIENCE", str(_PATIENCE)))
        try:
            page.goto(f"{self._url}{path}", timeout=_PATIENCE)
            # What Playwright waits for by itself is compiled from a string, which our Content-Security-Policy forbids.
            return float(page.evaluate("benchmark.seen"))
        except Error as error:
            raise CandidateError(f"{path}: {error.message.splitlines()[0]}") from None


def _metric(tools: CDPSession, name: str) -> float:
    found: Mapping[str, float] = {
        each["name"]: each["value"] for each in tools.send("Performance.getMetrics")["metrics"]
    }
    return found[name]


def _heap(tools: CDPSession) -> float:
    tools.send("HeapProfiler.collectGarbage")
    return _metric(tools, "JSHeapUsedSize")


def _kept(tools: CDPSession) -> int:
    """Bytes of what scripts have made and still hold, by a snapshot of the heap: without code, which is V8's own."""
    pieces: list[str] = []

    def note(said: Mapping[str, str]) -> None:
        pieces.append(said["chunk"])

    tools.on("HeapProfiler.addHeapSnapshotChunk", note)
    tools.send("HeapProfiler.takeHeapSnapshot", {"reportProgress": False})
    tools.remove_listener("HeapProfiler.addHeapSnapshotChunk", note)
    return kept_bytes(json.loads("".join(pieces)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
