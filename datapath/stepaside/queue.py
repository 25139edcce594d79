"""The NFQUEUE socket: receives packets and sends verdicts over netlink."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from typing import Final

from datapath.errors import PrivilegeError, QueueError
from datapath.protocols.packets import tcp_as_it_leaves
from datapath.stepaside.queue_messages import MAX_MESSAGE, QueuedPacket, Verdicts, bind, read_packets, unbind, wake
from tc_core.netlink.codec import NLMSG_ERROR, error_of, read_messages
from tc_core.netlink.socket import NETFILTER
from traffic_policy.errors import PodlaneError

_SOL_NETLINK: Final = 270
_NETLINK_NO_ENOBUFS: Final = 5
_SO_RCVBUFFORCE: Final = 33
"""linux/netlink.h and asm-generic/socket.h; the socket module has no names for them."""
MAX_PACKETS: Final = 4096
"""Packets that may wait for a verdict; further ones bypass the queue."""
_RECEIVE_BUFFER: Final = 8 << 20
"""Bytes of packets, with the kernel's overhead, that may wait to be read; further ones bypass the queue."""
_ANSWER_PATIENCE: Final = 5.0
"""Timeout in seconds for the kernel's answer to a request, which normally is immediate."""


class PacketQueue:
    """One queue of this network namespace.

    For a dedicated thread, since :meth:`receive` blocks. Other threads may call :meth:`wake`.
    """

    def __init__(self, number: int, *, max_packets: int = MAX_PACKETS, fail_open: bool = True) -> None:
        """Bind the queue. Raises :class:`QueueError` or :class:`PrivilegeError` with a remedy.

        Without ``fail_open`` packets for which there is no room are dropped, and those that wait at the end.
        """
        self.number = number
        self._fail_open = fail_open
        self._max_packets = max_packets
        self._verdicts = Verdicts(number)
        self._buffer = bytearray(MAX_MESSAGE)
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        except OSError as error:
            raise _explain(number, error.errno or 0) from None
        with ExitStack() as undo:
            undo.callback(self._socket.close)
            self._set_up()
            undo.pop_all()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def receive(self, flags: int = 0) -> list[QueuedPacket]:
        """Wait for a message and return its packets; empty if :meth:`wake` ended the wait.

        Raises BlockingIOError when ``flags`` are MSG_DONTWAIT and no message is available.
        """
        # Verdicts are answered only on error: the packet no longer exists (its interface was removed).
        return read_packets(self._buffer, self._socket.recv_into(self._buffer, 0, flags))

    def accept(self, packet: QueuedPacket, mark: int) -> None:
        """Release a packet with this mark. The kernel processes the packet's further path within this call."""
        ticket = packet.ticket
        same = mark == packet.mark
        self._socket.send(self._verdicts.accept(ticket) if same else self._verdicts.accept_marked(ticket, mark))

    def accept_as_read(self, packet: QueuedPacket, mark: int) -> None:
        """As :meth:`accept`, but a TCP packet goes on with the bytes that were read.

        What a program gave to sendfile(2) or MSG_ZEROCOPY is not copied by the kernel, so it may change what a packet
        carries until that has left. A packet too large to be shown whole goes on as it is.
        """
        data = tcp_as_it_leaves(packet.data, unsummed=packet.unsummed) if packet.whole else None
        if data is None:
            self.accept(packet, mark)
        else:
            self._socket.send(self._verdicts.accept_as_read(packet.ticket, mark, data))

    def wake(self) -> None:
        """Make a blocking :meth:`receive` in another thread return."""
        self._socket.send(wake(self.number))

    def close(self) -> None:
        """Unbind the queue, after releasing all waiting packets unclassified, if it is fail-open."""
        try:
            with suppress(BlockingIOError):
                while self._fail_open:
                    for packet in self.receive(socket.MSG_DONTWAIT):
                        self.accept(packet, packet.mark)
            self._socket.send(unbind(self.number, sequence=0))
        except OSError:
            pass  # closing the socket unbinds the queue as well
        finally:
            self._socket.close()

    def _set_up(self) -> None:
        sock = self._socket
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # CAP_NET_ADMIN of another user namespace: what net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        # With a full buffer packets bypass the queue (fail-open), or are dropped: ENOBUFS needs no handling.
        sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        sock.settimeout(_ANSWER_PATIENCE)
        try:
            sock.bind((0, 0))
            for sequence, request in enumerate(
                bind(self.number, max_packets=self._max_packets, sequence=1, fail_open=self._fail_open), 1
            ):
                sock.send(request)
                self._await_answer(sequence)
        except OSError as error:
            raise _explain(self.number, error.errno or 0) from None
        sock.settimeout(None)

    def _await_answer(self, sequence: int) -> None:
        """Wait for the acknowledgement; packets may arrive before it. Raises OSError."""
        while True:
            size = self._socket.recv_into(self._buffer)
            for packet in read_packets(self._buffer, size):
                if self._fail_open:  # else it waits, and is sent again meanwhile
                    self.accept(packet, packet.mark)
            for message in read_messages(self._buffer, size):
                if message.kind == NLMSG_ERROR and message.sequence == sequence:
                    number = error_of(self._buffer, message)
                    if number:
                        raise OSError(number, os.strerror(number))
                    return


def _explain(queue: int, number: int) -> PodlaneError:
    what = f"NFQUEUE {queue} cannot be used: {os.strerror(number)}."
    if number == errno.EPERM:
        # The kernel returns the same error when another socket has the queue.
        return PrivilegeError(f"{what} It takes CAP_NET_ADMIN, and no other program may have that queue.")
    if number == errno.EBUSY:
        return QueueError(f"{what} Another program has it: choose another number with --outbound-port.")
    if number in (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP):
        return QueueError(f"{what} Load the module on the node: modprobe nfnetlink_queue; or use --datapath relay.")
    return QueueError(f"{what} `podlane check` tells what this kernel can do; --datapath relay needs no queue.")
