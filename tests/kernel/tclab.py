"""Two network namespaces joined by a veth pair, for tests of traffic control; and traffic between them.

Sockets and the netlink kernel are made by a thread that has entered the namespace, and used from anywhere: they stay
in the namespace in which they were made.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TypeVar

from tc_core.handles import ROOT
from tc_core.kernel import DeleteLink, DeleteQdisc, SetLink
from tc_core.qdiscs import INGRESS
from tc_core.rtnetlink.kernel import NetlinkKernel

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_numbers = count()

CLIENT, SERVER = "10.87.0.1", "10.87.0.2"
DEVICE = "eth0"


def run(*command: str, text: str | None = None) -> str:
    """Run a command, with a text to read; its output. Raises AssertionError with everything it said if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def inside(namespace: str, call: Callable[[], _T]) -> _T:
    """Call something in a thread that has entered the namespace (setns(2); :func:`os.setns` is there from 3.12 on)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    results: list[_T] = []
    errors: list[BaseException] = []

    def in_thread() -> None:
        try:
            descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(descriptor, _CLONE_NEWNET):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            finally:
                os.close(descriptor)
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def set_mark(sock: socket.socket, mark: int) -> None:
    """Set SO_MARK, from 0x80000000 on too, where Python's integer form overflows."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark.to_bytes(4, sys.byteorder))


@dataclass
class Pair:
    """A client namespace with the interface to be shaped, and a server namespace."""

    client: str
    server: str
    kernel: NetlinkKernel
    _closing: ExitStack = field(default_factory=ExitStack)

    def on_client(self, *command: str) -> str:
        """Run a command in the client's namespace."""
        return inside(self.client, lambda: run(*command))

    def describe(self) -> str:
        """What traffic control has on the client's interface: for reports of failures."""
        tc = f"qdisc show dev {DEVICE}\nclass show dev {DEVICE}\nfilter show dev {DEVICE}\n"
        shown = inside(self.client, lambda: run("tc", "-s", "-d", "-batch", "-", text=tc))
        return shown + self.on_client("ip", "-d", "link", "show", DEVICE)

    # --- traffic -------------------------------------------------------------------------------------------------

    def listen(self, port: int) -> socket.socket:
        """A TCP listener in the server's namespace."""
        listener = inside(self.server, socket.socket)
        self._closing.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((SERVER, port))
        listener.listen()
        return listener

    def stream(self, port: int, mark: int = 0, *, download: bool = False) -> Stream:
        """A TCP connection from client to server, sending as fast as it can until it is closed.

        The client sends under a mark, or with ``download`` the server sends.
        """
        listener = self.listen(port)
        sender = inside(self.client, socket.socket)
        set_mark(sender, mark)
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        sender.connect((SERVER, port))
        receiver, _ = listener.accept()
        if download:
            sender, receiver = receiver, sender
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        made = Stream(sender, receiver)
        self._closing.callback(made.close)
        return made


class Stream:
    """A saturating TCP connection: one thread writes, one reads and notes how much had come when."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self.mss = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        self._sender, self._receiver = sender, receiver
        self._progress = threading.Condition()
        self._readings: list[tuple[float, int]] = [(time.monotonic(), 0)]
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        block = bytes(65536)
        try:
            while True:
                self._sender.sendall(block)
        except OSError:
            pass

    def _receive(self) -> None:
        buffer = bytearray(1 << 18)
        total = 0
        try:
            while size := self._receiver.recv_into(buffer):
                total += size
                with self._progress:
                    self._readings.append((time.monotonic(), total))
                    self._progress.notify_all()
        except OSError:
            pass

    def hold_window(self, size: int) -> None:
        """Let at most so many bytes be on their way (TCP_WINDOW_CLAMP in tcp(7)): fewer than a queue takes, and none is dropped."""
        self._receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, size)

    @property
    def retransmissions(self) -> int:
        """Segments sent again since the beginning (tcpi_total_retrans in linux/tcp.h, at byte 100)."""
        info = self._sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int.from_bytes(info[100:104], sys.byteorder)

    @property
    def round_trip(self) -> float:
        """Seconds that a segment and its acknowledgement take, smoothed (tcpi_rtt in linux/tcp.h, at byte 68)."""
        info = self._sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int.from_bytes(info[68:72], sys.byteorder) / 1e6

    def goodput(self, seconds: float, *, after: float = 0.0) -> float:
        """Mean bits per second of payload that arrive in ``seconds``, beginning ``after`` seconds from now."""
        start = time.monotonic() + after
        end = start + seconds
        with self._progress:
            assert self._progress.wait_for(lambda: self._readings[-1][0] >= end, timeout=after + seconds + 10), (
                "nothing arrives"
            )
            readings = list(self._readings)
        first = max((r for r in readings if r[0] <= start), default=readings[0])
        last = max(r for r in readings if r[0] <= end)
        return (last[1] - first[1]) * 8 / (last[0] - first[0])

    def close(self) -> None:
        """Cut the connection and wait for both threads."""
        for end in (self._sender, self._receiver):
            with ExitStack() as ignoring:
                ignoring.callback(end.close)
                if end.fileno() >= 0:
                    try:
                        end.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        continue
        for thread in self._threads:
            thread.join()


@contextmanager
def veth_pair() -> Iterator[Pair]:
    """A :class:`Pair`, gone at the end of the block. Its traffic control is printed then, for the failure's report.

    Made with few processes: starting one takes a second in an emulated machine.
    """
    number = next(_numbers)
    client, server = names = [f"tctest-{os.getpid()}-{number}-{role}" for role in ("c", "s")]
    with ExitStack() as stack:
        stack.callback(_ip, *(f"netns del {name}" for name in names), anyway=True)
        _ip(*(f"netns add {name}" for name in names))
        for name in names:
            inside(name, _without_ipv6)
        _ip(f"link add {DEVICE} type veth peer name {DEVICE} netns {server}", namespace=client)
        for name, address, mac, peer, peer_mac in (
            (client, CLIENT, "02:00:00:00:00:01", SERVER, "02:00:00:00:00:02"),
            (server, SERVER, "02:00:00:00:00:02", CLIENT, "02:00:00:00:00:01"),
        ):
            _ip(
                f"link set {DEVICE} address {mac} up",
                f"address add {address}/24 dev {DEVICE}",
                f"neigh replace {peer} lladdr {peer_mac} dev {DEVICE}",
                namespace=name,
            )
        kernel = inside(client, NetlinkKernel)
        stack.callback(kernel.close)
        pair = Pair(client, server, kernel)
        stack.callback(lambda: print(pair.describe()))
        stack.enter_context(pair._closing)
        yield pair


def _ip(*commands: str, namespace: str | None = None, anyway: bool = False) -> None:
    """Several commands of ip(8) by one process; with ``anyway`` the later ones although an earlier one has failed."""
    where = ["-n", namespace] if namespace else []
    run("ip", *where, *(["-force"] if anyway else []), "-batch", "-", text="\n".join(commands) + "\n")


def _without_ipv6() -> None:
    """Only what a test sends shall pass: no neighbour discovery, no multicast reports."""
    for setting in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{setting}/disable_ipv6").write_text("1")


@contextmanager
def left_as_found(kernel: NetlinkKernel) -> Iterator[None]:
    """Take away every qdisc, and every interface, that the block adds: so that tests can share one :class:`Pair`."""
    untouched, interfaces = kernel.observe(DEVICE), kernel.interfaces()
    yield
    for qdisc in kernel.observe(DEVICE).qdiscs:
        if qdisc.parent in (ROOT, INGRESS) and qdisc.handle.major:
            kernel.apply(DEVICE, DeleteQdisc(qdisc))
    for name in kernel.interfaces().keys() - interfaces.keys():
        kernel.apply(name, DeleteLink())
    link = untouched.link
    kernel.apply(DEVICE, SetLink(gso_max_size=link.gso_max_size, tx_queue_len=link.tx_queue_len, up=True))
    assert kernel.observe(DEVICE) == untouched
