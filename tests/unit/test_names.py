"""Host names in comparable form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_policy.names import HostNameError, normalise_host, parse_host


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        ("API.Example.com", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com:8443", "api.example.com"),
        ("api.example.com.:8443", "api.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example:80", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("outbound_.80_._.db.default", "outbound_.80_._.db.default"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[2001:DB8::1]:8080", "2001:db8::1"),
        ("2001:db8:0::1", "2001:db8::1"),
        ("localhost", "localhost"),
        ("example.com:", "example.com"),
        ("foo-.Example.com", "foo-.example.com"),
        ("-a.example.com", "-a.example.com"),
    ],
)
def test_names_compare_without_case_port_and_dot(seen: str, name: str) -> None:
    assert parse_host(seen) == name


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", ".a", "a b", "a" * 64, "a." * 140 + "com", "a:b", "[::1", "[a.com]", "*"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(HostNameError):
        parse_host(text)
    assert normalise_host(text) is None


@given(st.text())
def test_nothing_on_the_wire_raises_and_normal_form_is_stable(text: str) -> None:
    name = normalise_host(text)
    assert name is None or normalise_host(name) == name
