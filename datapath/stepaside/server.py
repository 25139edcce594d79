"""The step-aside datapath as a service: passes packets from the queue to the classifier and returns its verdicts.

It has the lifecycle of :class:`sidecar.proxy.server.ProxyServer`, but no connection depends on it. When it ends, by
drain or by a crash, decided connections stay decided in the kernel, undecided ones are classified by port, and none is
aborted.

Packets are classified in a dedicated thread that blocks in recv(2), or in one that serves the queues of many network
namespaces (:mod:`datapath.stepaside.turns`). Waking a trio task for each new connection would cost more than all the
rest (see docs/explanation/datapaths.md), while the packet waits. This thread and trio's share the classifier, whose
methods allow that, and the witness.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Collection
from functools import partial
from time import monotonic, time_ns
from typing import Final

import trio

from daemon.log import Logger
from datapath.connection_list import ConnectionPage, LiveConnection, Order, select_connections
from datapath.errors import ConntrackError, PrivilegeError
from datapath.kernel_thread import KernelThread
from datapath.routing.cached import Routing
from datapath.stepaside import conntrack
from datapath.stepaside.class_cache import ChosenClass, DetectedFlow, FlowObserver, addresses, ends, known_marks
from datapath.stepaside.classifier import Classifier
from datapath.stepaside.conntrack_messages import Entry
from datapath.stepaside.marks import CHOSEN_OR_DECIDED, DECIDED, OPEN, OURS
from datapath.stepaside.queue import PacketQueue
from datapath.stepaside.queue_messages import QueuedPacket
from datapath.stepaside.tcp_sockets import TcpSockets
from datapath.stepaside.turns import TIDY_S, ClassifierThread, fast_switching
from traffic_policy.marks import CLASS_MASK, STATE_MASK, Mark, class_id_of
from traffic_policy.policy import Bound, TransportProtocol
from traffic_policy.units import Duration

log = Logger()

_REROUTED: Final = 64
"""Connections that are chosen for again at once: packets wait for that."""


class StepAside:
    """Classifies the packets of one queue until cancelled or drained."""

    def __init__(
        self,
        queue: int,
        routing: Routing,
        flow_observer: FlowObserver,
        *,
        detection_timeout: Duration,
        transports: Collection[TransportProtocol] = (TransportProtocol.TCP, TransportProtocol.UDP),
        on_idle: Callable[[int, int], None] = lambda _left, _held: None,
        on_end: Callable[[], None] = lambda: None,
        kernel: KernelThread | None = None,
        shared_thread: ClassifierThread | None = None,
        fail_open: bool = True,
    ) -> None:
        """``queue`` is the number that the rules name. ``transports``: what it classifies; with a relay, whose TCP
        connections have marks of their own, that is UDP alone.

        ``kernel`` makes calls in the network namespace of the queue, this process's own by default; ``shared_thread``
        classifies instead of a thread of its own. Without ``fail_open`` packets for which the queue has no room are
        dropped.

        ``on_idle`` is called by the thread that judges, when no packet waits, with the number of connections whose
        first bytes are awaited, and the bytes that are kept for them. ``on_end`` is called when :meth:`run` ends.
        """
        self._number = queue
        self._transports = transports
        self._on_idle = on_idle
        self._on_end = on_end
        self._kernel = kernel or KernelThread()
        self._shared_thread = shared_thread
        self._fail_open = fail_open
        told: FlowObserver = _Log(flow_observer) if log.is_enabled_for("debug") else flow_observer
        # One Pod's program must not keep the packets of others waiting.
        self._sockets = TcpSockets(may_wait=shared_thread is None)
        self._classifier = Classifier(
            routing,
            told,
            self._sockets,
            detection_timeout=detection_timeout.seconds,
            misses_nothing=not fail_open,
        )
        self._life = trio.CancelScope()
        self._stopping = False
        self._classifying = threading.Lock()
        self._queue: PacketQueue | None = None
        self._failure: Exception | None = None
        self._turned = True

    @property
    def routing(self) -> Routing:
        """The routing in force; :meth:`follow` brings another."""
        return self._classifier.routing

    @property
    def active(self) -> int:
        """Connections that depend on this server: always 0."""
        return 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled. Started when the queue is ours.

        Raises :class:`~datapath.errors.QueueError`, :class:`~datapath.errors.PrivilegeError`.
        """
        with trio.CancelScope(shield=True):  # a thread that opens it is not cancelled
            queue = self._queue = await self._kernel.run(partial(PacketQueue, self._number, fail_open=self._fail_open))
        try:
            await self._open_sockets()
            task_status.started()
            if self._shared_thread is None:
                await self._in_own_thread(queue)
            else:
                await self._in_shared_thread(queue, self._shared_thread)
        finally:
            self._queue = None
            queue.close()
            self._sockets.close()
            self._on_end()

    async def _open_sockets(self) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self._kernel.run(self._sockets.open)
            except OSError as error:
                what = "whether first bytes arrive is not asked: a program can show other ones (modprobe tcp_diag)"
                log.warning(what, error=str(error))

    async def _in_own_thread(self, queue: PacketQueue) -> None:
        with fast_switching():
            async with trio.open_nursery() as nursery:
                # Shielded by nature: a thread is not cancelled, it is told to stop.
                nursery.start_soon(
                    partial(trio.to_thread.run_sync, self._classify, queue, limiter=trio.CapacityLimiter(1))
                )
                try:
                    await self._tidy(queue)
                finally:
                    self._stopping = True
                    queue.wake()

    async def _in_shared_thread(self, queue: PacketQueue, thread: ClassifierThread) -> None:
        end = partial(trio.lowlevel.current_trio_token().run_sync_soon, self._life.cancel)
        thread.add(queue.fileno(), partial(self._take_turn, queue, end))
        try:
            with self._life:
                await trio.sleep_forever()
        finally:
            self._stopping = True
            thread.remove(queue.fileno())
        if self._failure is not None:
            raise self._failure

    async def _tidy(self, queue: PacketQueue) -> None:
        with self._life:
            while True:
                await trio.sleep(TIDY_S)
                queue.wake()  # what is silent is given up also where no packet comes

    def turned(self) -> bool | None:
        """Whether the thread that judges has come round since the last call; makes it come round once more.

        None: it was told to end, or has.
        """
        if self._queue is None or self._stopping:
            return None
        turned, self._turned = self._turned, False
        self._queue.wake()
        return turned

    async def drain(self, grace: Duration) -> int:  # noqa: ARG002  # the life of a proxy; here nothing has to end
        """Stop. No connection depends on the server, so there is nothing to wait for or to abort: returns 0."""
        self._life.cancel()
        return 0

    async def follow(self, routing: Routing) -> None:
        """Put a routing in force for what is decided from now on; :meth:`reroute` is for the rest."""
        with self._classifying:  # what was judged by the old one is in conntrack's table when this returns
            self._classifier.routing = routing

    async def reroute(self) -> int:
        """Reclassify live, decided connections; returns how many changed class.

        By their content if it is still known. Otherwise they keep their class if it still exists, and go to the default
        class if not. Raises :class:`~datapath.errors.ConntrackError`, :class:`~datapath.errors.PrivilegeError`.
        """
        found = await self._kernel.run(self._decided)
        changed = 0
        for at in range(0, len(found), _REROUTED):
            changed += await self._kernel.run(partial(self._reroute, found[at : at + _REROUTED]))
        return changed

    def _decided(self) -> list[Entry]:
        return [
            entry
            for entry in conntrack.entries(CHOSEN_OR_DECIDED)
            if entry.transport in self._transports and class_id_of(entry.mark)
        ]

    def _reroute(self, found: list[Entry]) -> int:
        changes: list[tuple[Entry, Mark]] = []
        with self._classifying:  # what is judged between choosing and writing would get its older mark back
            marks = known_marks(self.routing)
            for entry in found:
                mark = self._classifier.choose_again(entry.flow, entry.mark, marks, entry.transport)
                if mark != entry.mark:
                    changes.append((entry, Mark(mark & CLASS_MASK, CLASS_MASK)))
            return conntrack.change(changes) if changes else 0

    async def connections(self, limit: int, order: Order) -> ConnectionPage:
        """The connections alive that were decided, by conntrack's table, and ``limit`` of them.

        Raises :class:`~datapath.errors.ConntrackError`, :class:`~datapath.errors.PrivilegeError`.
        """
        found = await self._kernel.run(self._decided)
        now = time_ns()
        alive = [self._told(entry, now) for entry in found if not entry.ended]
        return ConnectionPage(len(alive), select_connections(alive, limit, order))

    def _told(self, entry: Entry, now: int) -> LiveConnection:
        client, destination = addresses(entry.flow)
        known = self._classifier.known(entry.flow, entry.transport)
        detection, bound = (None, None) if known is None else (known.detection, known.bound)
        return LiveConnection(
            self.routing.ids.name_of(class_id_of(entry.mark)),
            client,
            destination,
            bound and bound.value,
            detection and (detection.sni or detection.host),
            detection and detection.protocol.value,
            "stepped-aside",
            None if entry.began is None else max(0, now - entry.began) / 1e9,  # the clock may have been set back
            entry.bytes_up,
            entry.bytes_down,
        )

    def _classify(self, queue: PacketQueue) -> None:
        while not self._stopping:
            self._handle(queue, queue.receive())

    def _take_turn(self, queue: PacketQueue, end: Callable[[], None], most: int) -> None:
        """A failure ends this server, as it does in a thread of its own, and no other."""
        try:
            if not most and any(self._classifier.pending):
                self._handle(queue, [])
            for _ in range(most):
                if self._stopping:
                    return
                self._handle(queue, queue.receive(socket.MSG_DONTWAIT))
        except BlockingIOError:
            return  # all have been read
        except Exception as error:  # noqa: BLE001 (raised by run())
            self._failure, self._stopping = error, True
            end()

    def _handle(self, queue: PacketQueue, packets: list[QueuedPacket]) -> None:
        classifier = self._classifier
        self._turned = True
        if not packets:
            with self._classifying:
                try:
                    classifier.give_up_silent(monotonic())
                except Exception:  # as below; the rest have their turn when it is woken next
                    log.exception("a mistake in giving up connections that say nothing more")
            self._on_idle(*classifier.pending)  # packets that come meanwhile wait in the queue
        for packet in packets:
            bound = Bound.INBOUND if packet.arrived else Bound.OUTBOUND
            with self._classifying:
                try:
                    mark = classifier.classify(packet.data, packet.mark, monotonic(), bound)
                except Exception:  # one connection's fault must not end all others; it goes by port
                    log.exception("a mistake in judging a packet")
                    mark = packet.mark & ~STATE_MASK
                if classifier.quic.moved:
                    with self._kernel.entered():
                        _write_down(classifier.quic.moved)
                # The bytes of what is decided do not count any more.
                if mark & STATE_MASK == DECIDED.value:
                    queue.accept(packet, mark)
                else:
                    queue.accept_as_read(packet, mark)


def _write_down(moved: list[tuple[bytes, int]]) -> None:
    """Give UDP flows that were decided before the mark of their newest connection. It is not worth a packet's wait."""
    changes = [(Entry(flow, mark, transport=TransportProtocol.UDP), Mark(mark & OURS, OURS)) for flow, mark in moved]
    moved.clear()
    try:
        conntrack.change(changes)
    except (ConntrackError, PrivilegeError) as error:
        log.warning("a flow stays in the class of its connection before", error=str(error))


class _Log:
    """Writes a line for each connection, and tells the other witness."""

    def __init__(self, flow_observer: FlowObserver) -> None:
        self.detected = flow_observer.detected
        self.lost_lines = flow_observer.lost_lines
        self._flow_observer = flow_observer

    def stepped_aside(self, flow: bytes, known: DetectedFlow, chosen: ChosenClass) -> None:
        """The class is chosen."""
        self._flow_observer.stepped_aside(flow, known, chosen)
        detection = known.detection
        client, destination = ends(flow, known)
        log.debug(
            "stepped aside",
            client=client,
            destination=str(destination),
            transport=known.transport.value,
            bound=known.bound.value,
            class_name=chosen.class_name,
            protocol=detection.protocol.value,
            reason=detection.reason.value,
            sni=detection.sni,
            host=detection.host,
        )


def clear_marks(*transports: TransportProtocol) -> int:
    """Clear our bits in the marks of tracked connections, of all or of these ``transports``; how many had some.

    Raises :class:`~datapath.errors.ConntrackError`, :class:`~datapath.errors.PrivilegeError`.
    """
    clean = Mark(0, OURS)

    def cleaned(entry: Entry) -> Mark | None:
        return clean if not transports or entry.transport in transports else None

    return sum(conntrack.rewrite(mark, cleaned) for mark in (DECIDED, OPEN))
