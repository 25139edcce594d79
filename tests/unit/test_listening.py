"""Ports on which loopback is another door than the Pod's own address, and how listeners are read."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest

from datapath.sock_diag import Listeners, ListenersError, Listening, apart, listening, parse


def at(address: str, port: int = 80, **about: bool) -> Listening:
    return Listening(ipaddress.ip_address(address), port, **about)


CASES = {
    "nobody": ([], False),
    "every address": ([at("0.0.0.0")], False),
    "every address of both families": ([at("::")], False),
    "every address, each family by itself": ([at("0.0.0.0"), at("::", v6only=True)], False),
    "several of a group": ([at("0.0.0.0"), at("0.0.0.0")], False),
    "loopback alone": ([at("127.0.0.1")], False),
    "IPv6 loopback alone": ([at("::1")], False),
    "the Pod's address": ([at("10.0.0.1")], True),
    "the Pod's IPv6 address": ([at("2001:db8::1")], True),
    "the Pod's address in IPv6's clothes": ([at("::ffff:10.0.0.1")], True),
    "one of each": ([at("10.0.0.1"), at("127.0.0.1")], True),
    "another on loopback than elsewhere": ([at("::"), at("127.0.0.1")], True),
    "another on loopback, of a family that the first does not serve": ([at("::", v6only=True), at("127.0.0.1")], False),
    "another on IPv6 loopback than elsewhere": ([at("::"), at("::1")], True),
    "bound to an interface": ([at("0.0.0.0", bound=True)], True),
}


@pytest.mark.parametrize("case", CASES)
def test_ports_are_apart_where_loopback_is_another_door(case: str) -> None:
    listeners, expected = CASES[case]
    assert apart([*listeners, at("0.0.0.0", 81)]) == (frozenset({80}) if expected else frozenset())


def message(family: int, address: str, port: int, interface: int = 0, attributes: bytes = b"") -> bytes:
    packed = socket.inet_pton(family, address).ljust(16, b"\0")
    head = struct.pack("=BBBB", family, 10, 0, 0) + port.to_bytes(2, "big") + b"\0\0"
    return head + packed + bytes(16) + struct.pack("=I", interface) + bytes(8) + bytes(20) + attributes


V6ONLY = struct.pack("=HHBxxx", 5, 11, 1)
OTHER = struct.pack("=HHI", 8, 3, 7)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (message(socket.AF_INET, "10.0.0.1", 8080), at("10.0.0.1", 8080)),
        (message(socket.AF_INET6, "::", 80), at("::")),
        (message(socket.AF_INET6, "::", 80, attributes=OTHER + V6ONLY), at("::", v6only=True)),
        (message(socket.AF_INET6, "::1", 80, 3, OTHER), at("::1", bound=True)),
        (message(socket.AF_INET6, "::", 80, attributes=b"\0\0\0\0" + V6ONLY), at("::", v6only=True)),
    ],
    ids=["IPv4", "IPv6", "IPv6 only", "bound to an interface", "an attribute without a length"],
)
def test_an_answer_is_read(raw: bytes, expected: Listening) -> None:
    assert parse(raw) == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0"])
def test_the_kernel_tells_of_real_listeners(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        assert (address, port) in {(str(each.address), each.port) for each in listening()}
    assert (address, port) not in {(str(each.address), each.port) for each in listening()}


def test_what_is_known_holds_when_the_kernel_does_not_tell() -> None:
    answers: list[list[Listening] | None] = [[at("10.0.0.1")], None]

    def read() -> list[Listening]:
        answer = answers.pop(0)
        if answer is None:
            raise ListenersError("no such module")
        return answer

    listeners = Listeners(read, fresh=0.0)
    assert listeners.apart() == {80}
    assert listeners.apart() == {80}
    assert not answers


def test_what_is_known_is_not_asked_for_again_at_once() -> None:
    asked: list[int] = []
    listeners = Listeners(lambda: asked.append(1) or [], fresh=60.0)
    assert listeners.apart() == listeners.apart() == frozenset()
    assert asked == [1]
