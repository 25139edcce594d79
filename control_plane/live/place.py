"""``/v1/live``: a WebSocket for each viewer, by which it says what it looks at and gets what the hub makes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from control_plane.access.gate import Gate
from control_plane.domain.errors import (
    InvalidError,
    NotAllowedError,
    TooManyError,
    UnauthenticatedError,
    UnknownEventError,
)
from control_plane.fleet.agent_status import FleetStatus
from control_plane.fleet.allowance import Allowance
from control_plane.fleet.figures import SECONDS
from control_plane.http.context import SESSION_COOKIE
from control_plane.http.problems import MalformedError, problem_of, refusal
from control_plane.live.hub import LiveHub, Subscription
from control_plane.live.messages import (
    MOST_ROWS,
    MOST_SUBSCRIPTIONS,
    PROTOCOL,
    Login,
    Subscribe,
    read_message,
)
from control_plane.service import Caller, ControlPlane
from control_plane.store.errors import StoreError
from control_plane.store.refusals import RefusedRequest
from daemon.log import Logger
from traffic_policy.errors import PodlaneError

router = APIRouter()
_T = TypeVar("_T")
_MOST_VIEWERS: Final = 1000
_MOST_OF_ONE: Final = 100
"""Connections of one author."""
_MOST_STRANGERS: Final = 100
"""Connections that have not said yet whose they are."""
_LOGIN_S: Final = 10.0
_MESSAGES: Final = (10.0, 60.0)
"""A second, and at once."""
_CHECK_S: Final = 1.9
_CHECK_NEWS_S: Final = 0.9
"""Seconds after which it is asked again whether the viewer may still look; and if something was decided since."""
_GAP_S: Final = 0.1
"""Seconds between two turns, however much happens."""
_LATE_S: Final = 0.05
"""Seconds after the turn of a second, by which most of what agents say of it is there."""
_SHARE_OF_ONE: Final = 0.2
"""Of a processor that all connections of one author may take to make frames, in the long run."""
_BURST_S: Final = 2.0
_LONGEST_PAUSE_S: Final = 10.0
_ALIVE_S: Final = 15.0
_POLICY_VIOLATION: Final = 1008
"""https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1"""

log = Logger(spacing=10.0)
Known = Callable[[], Caller]
"""Says whose connection it is, as of now. Blocks. Raises :class:`UnauthenticatedError`."""


@router.websocket("/v1/live")
async def live(websocket: WebSocket) -> None:
    place: LivePlace = websocket.app.state.live
    await place.serve(websocket)


@dataclass(eq=False, slots=True)
class _Viewer:
    """A connection. All in its event loop, but ``news`` is set by :meth:`LivePlace._happened`."""

    websocket: WebSocket
    known: Known
    caller: Caller
    loop: asyncio.AbstractEventLoop
    checked: float
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """It has asked for something that was not shown yet."""
    said: float = field(default_factory=time.monotonic)
    waits: bool = False
    """Whether it was told that nothing can be made now."""

    async def send(self, frame: str | bytes) -> None:
        """Waits until there is room. Raises :class:`WebSocketDisconnect`."""
        self.said = time.monotonic()
        if isinstance(frame, str):
            await self.websocket.send_text(frame)
        else:
            await self.websocket.send_bytes(frame)

    async def tell(self, kind: str, **content: object) -> None:
        await self.send(json.dumps({"type": kind, **content}, separators=(",", ":")))

    async def problem(self, error: PodlaneError, about: int | None = None) -> None:
        await self.tell("problem", id=about, problem=problem_of(error).model_dump())


class _EndedError(Exception):
    """The connection is to be closed; its viewer was told why."""


class LivePlace:
    """All viewers of one process."""

    def __init__(self, plane: ControlPlane, fleet: FleetStatus, gate: Gate) -> None:
        self._plane = plane
        self._gate = gate
        self._hub = LiveHub(plane, fleet)
        # One thread: what is made is made once for all, and requests go on meanwhile.
        self._worker = ThreadPoolExecutor(1, "live")
        self._lock = Lock()
        self._viewers: set[_Viewer] = set()
        self._strangers = 0
        self._taken: dict[str, float] = {}
        """Until when each author has had its share of the worker, in seconds of the monotonic clock."""
        self.frames = self.bytes = 0
        """That were sent."""
        plane.on_append.append(self._happened)

    @property
    def viewers(self) -> int:
        """How many are connected, and known."""
        return len(self._viewers)

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, to its end."""
        try:
            known = _credentials(self._gate, websocket)
            caller = None if known is None else await self._admitted(known)
            self._check_room(caller)
        except PodlaneError as error:
            await websocket.send_denial_response(refusal(error))
            return
        try:
            await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
            if known is None or caller is None:
                known, caller = await self._login(websocket)
            await self._look(_Viewer(websocket, known, caller, asyncio.get_running_loop(), time.monotonic()))
        except WebSocketDisconnect:
            return
        except _EndedError:
            await websocket.close(_POLICY_VIOLATION)

    async def _do(self, job: Callable[[], _T]) -> _T:
        """What blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, job)

    async def _admitted(self, known: Known) -> Caller:
        caller = await self._do(known)
        self._gate.count(caller)
        return caller

    def _check_room(self, caller: Caller | None) -> None:
        with self._lock:
            if caller is None:
                full = self._strangers >= _MOST_STRANGERS
            else:
                own = sum(each.caller.author == caller.author for each in self._viewers)
                full = len(self._viewers) >= _MOST_VIEWERS or own >= _MOST_OF_ONE
        if full:
            raise TooManyError("There are too many live connections.", 10)

    async def _login(self, websocket: WebSocket) -> tuple[Known, Caller]:
        """By the first message."""
        self._strangers += 1
        try:
            async with asyncio.timeout(_LOGIN_S):
                message = read_message(_text(await websocket.receive()))
            if not isinstance(message, Login):
                raise UnauthenticatedError("Nobody has logged in.", 'Send {"type": "login", "token": "..."} first.')
            address, token = _address(websocket), message.token

            def known() -> Caller:
                return self._gate.admit(token, address)

            caller = await self._admitted(known)
            self._check_room(caller)
        except TimeoutError:
            raise _EndedError from None
        except PodlaneError as error:
            self._note(websocket, error, "", "")
            problem = {"type": "problem", "id": None, "problem": problem_of(error).model_dump()}
            await websocket.send_text(json.dumps(problem))
            raise _EndedError from None
        finally:
            self._strangers -= 1
        return known, caller

    async def _look(self, viewer: _Viewer) -> None:
        with self._lock:
            self._viewers.add(viewer)
        tasks = [asyncio.create_task(self._hear(viewer)), asyncio.create_task(self._show(viewer))]
        try:
            limits = {"subscriptions": MOST_SUBSCRIPTIONS, "rows": MOST_ROWS, "seconds": SECONDS}
            await viewer.tell("welcome", author=viewer.caller.author, **limits)
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            with self._lock:
                self._viewers.discard(viewer)
                if all(each.caller.author != viewer.caller.author for each in self._viewers):
                    self._taken.pop(viewer.caller.author, None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hear(self, viewer: _Viewer) -> None:
        """What the viewer says."""
        allowance = Allowance(*_MESSAGES)
        while True:
            received = await viewer.websocket.receive()
            if not allowance.take(time.monotonic()):
                error = TooManyError(f"More than {_MESSAGES[0]:.0f} messages a second were sent.", 1)
                self._note(viewer.websocket, error, viewer.caller.author, "")
                await viewer.problem(error)
                raise _EndedError
            about = None
            try:
                message = read_message(_text(received))
                if isinstance(message, Login):
                    raise InvalidError("Somebody has logged in already.", "Open another connection.")
                about = message.id
                if isinstance(message, Subscribe):
                    await self._subscribe(viewer, message)
                else:
                    viewer.subscriptions.pop(message.id, None)
            except PodlaneError as error:
                viewer.subscriptions.pop(about, None) if about is not None else None
                await viewer.problem(error, about)

    async def _subscribe(self, viewer: _Viewer, wish: Subscribe) -> None:
        if wish.id not in viewer.subscriptions and len(viewer.subscriptions) >= MOST_SUBSCRIPTIONS:
            raise TooManyError(f"A connection has {MOST_SUBSCRIPTIONS} subscriptions at most.", 1)
        try:
            viewer.subscriptions[wish.id] = await self._do(lambda: self._hub.begin(wish, viewer.caller))
        except NotAllowedError as error:
            self._note(viewer.websocket, error, viewer.caller.author, wish.tenant)
            raise
        viewer.asked.set()
        viewer.news.set()

    async def _show(self, viewer: _Viewer) -> None:
        """Send what is new, once a second and when something has happened. A viewer who takes nothing waits here, and
        nothing is made for it meanwhile."""
        while True:
            check_after = _CHECK_NEWS_S if viewer.news.is_set() else _CHECK_S
            viewer.news.clear()
            viewer.asked.clear()
            more = False
            if time.monotonic() - viewer.checked > check_after:
                await self._check(viewer)
            for id, subscription in list(viewer.subscriptions.items()):
                if time.monotonic() - viewer.checked > _CHECK_S:
                    await self._check(viewer)
                if viewer.subscriptions.get(id) is not subscription:
                    continue
                more |= await self._show_one(viewer, id, subscription)
            if time.monotonic() - viewer.said > _ALIVE_S:
                await viewer.tell("alive", at=self._plane.now_ms / 1000)
            await asyncio.sleep(self._pause(viewer))
            # The gap is for what happens by itself: nobody waits for what was asked for a moment ago.
            if not more and not await _set_within(viewer.asked, _GAP_S):
                tick = 1 + _LATE_S - self._plane.now_ms % 1000 / 1000
                due = self._hub.due(each.wish.tenant for each in viewer.subscriptions.values())
                await _set_within(viewer.news, min(tick, due) if due < 1 else tick)

    def _pause(self, viewer: _Viewer) -> float:
        """Seconds that a viewer has to wait who asks for what is dear, by however many connections."""
        ahead = self._taken.get(viewer.caller.author, 0.0) - time.monotonic()
        return min(max(0.0, ahead - _BURST_S), _LONGEST_PAUSE_S)

    def _frame(self, viewer: _Viewer, subscription: Subscription) -> str | bytes | None:
        """In the worker. What it costs is written down to the author."""
        before, author = time.thread_time(), viewer.caller.author
        try:
            return self._hub.frame(subscription)
        finally:
            used = time.thread_time() - before
            self._taken[author] = max(self._taken.get(author, 0.0), time.monotonic()) + used / _SHARE_OF_ONE

    async def _show_one(self, viewer: _Viewer, id: int, subscription: Subscription) -> bool:
        """Whether there is more right now."""
        subscription.more = False
        try:
            frame = await self._do(lambda: self._frame(viewer, subscription))
        except (StoreError, UnknownEventError) as error:
            # The database is away, or a newer version has written to it: for a while.
            log.warning("viewers wait", reason=str(error))
            if not viewer.waits:
                viewer.waits = True
                await viewer.tell("waiting", problem=problem_of(error).model_dump())
            return False
        except PodlaneError as error:
            if viewer.subscriptions.get(id) is subscription:
                del viewer.subscriptions[id]
                await viewer.problem(error, id)
            return False
        viewer.waits = False
        if frame is not None and viewer.subscriptions.get(id) is subscription:
            await viewer.send(frame)
            self.frames += 1
            self.bytes += len(frame)
        return subscription.more

    async def _check(self, viewer: _Viewer) -> None:
        """Whether the viewer may still look."""
        try:
            viewer.caller = await self._do(viewer.known)
        except UnauthenticatedError as error:
            await viewer.problem(error)
            raise _EndedError from None
        except PodlaneError as error:  # the database or the provider is away: it is asked again
            log.warning("whether viewers may still look is not known", reason=str(error))
            return
        viewer.checked = time.monotonic()
        held = list(viewer.subscriptions.items())
        for id, subscription, refused in await self._do(lambda: self._refused(viewer.caller, held)):
            if viewer.subscriptions.get(id) is subscription:
                del viewer.subscriptions[id]
                await viewer.problem(refused, id)

    def _refused(
        self, caller: Caller, held: list[tuple[int, Subscription]]
    ) -> list[tuple[int, Subscription, NotAllowedError]]:
        """Subscriptions that the caller may have no longer."""
        found = []
        for id, subscription in held:
            try:
                self._hub.check(subscription.wish, caller)
            except NotAllowedError as error:
                found.append((id, subscription, error))
        return found

    def _happened(self, tenant: str) -> None:
        """Any thread."""
        if not self._hub.happened(tenant):
            return
        with self._lock:
            for viewer in self._viewers:
                viewer.loop.call_soon_threadsafe(viewer.news.set)

    def _note(self, websocket: WebSocket, error: PodlaneError, author: str, tenant: str) -> None:
        """For the audit log, as other requests that are refused."""
        problem = problem_of(error)
        refused = RefusedRequest(
            tenant, self._plane.now_ms, author, bool(author), _address(websocket), "GET /v1/live", problem.status,
            problem.type.rpartition(":")[2], problem.detail[:300], "",
        )  # fmt: skip
        self._gate.recorder.note(refused)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether it is, once it is or so much time has passed."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _credentials(gate: Gate, websocket: WebSocket) -> Known | None:
    """Whose connection it is by its first request; None: that does not say. Raises :class:`NotAllowedError`."""
    address = _address(websocket)
    scheme, _, token = websocket.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return lambda: gate.admit(token.strip(), address)
    cookie = websocket.cookies.get(SESSION_COOKIE)
    if not cookie:
        return None
    # Browsers send the cookie for pages of others, too, and let them read what comes.
    origin = urlsplit(websocket.headers.get("origin", "")).netloc.lower()
    ours = {websocket.headers.get("host", "").lower()}
    if gate.users is not None:
        ours.add(urlsplit(gate.users.url).netloc.lower())
    if not origin or origin not in ours:
        raise NotAllowedError(
            "A session is for pages of ours: the request has no Origin, or another.",
            "Send Authorization: Bearer and a token.",
        )
    return lambda: gate.admit_session(cookie, address)


def _address(websocket: WebSocket) -> str:
    return websocket.client.host if websocket.client else ""


def _text(message: Message) -> str:
    """Raises :class:`WebSocketDisconnect`, :class:`MalformedError`."""
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text: str | None = message.get("text")
    if text is None:
        raise MalformedError("Messages to us are text.", "Send JSON as text.")
    return text
