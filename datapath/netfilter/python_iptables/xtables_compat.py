"""What python-iptables 1.2.0 needs in order to work with the libxtables that is here, before 1.8.11 and since.

python-iptables describes the structures of libxtables to ctypes. That description is of one release, and some of the
library's own habits fit programs that serve one address family and then end, not a process that serves both:

* **Options after the first are not found since 1.8.11.** ``struct xt_option_entry`` (include/xtables.h) grew a field at
  its end, ``base``: 56 bytes instead of 48. An array of options is walked with the wrong stride, and "no such parameter
  on-ip" is the result. The library's file name (libxtables.so.12.7.0) is the same in 1.8.9 and 1.8.11, and the library
  does not tell its release, so the layout is found by looking: TPROXY has three options, whose names are pointers into
  one file. 48 bytes behind the first one's name there is either the second one's, or ``base`` of the first, which is 0.
* **TPROXY is found for one family only.** libxtables registers a target for the family that is current while the
  target's file is loaded (xtables_register_target() of libxtables/xtables.c: "ignore not interested target"; matches
  are registered for both). Its options, parser and structure are the same for both families
  (extensions/libxt_TPROXY.c, revision 1), so what the first look-up found serves the other family as well.
* **A second registration ends the process.** When python-iptables does not find an extension it calls the extension's
  initialiser again; libxtables then writes "already registered" and calls exit(1). Loading is left to libxtables, which
  has done all it can by then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Final

from datapath.errors import RulesetError
from datapath.netfilter.backend import LOAD_EXTENSIONS_REMEDY

_STRIDE_BEFORE: Final = 48
"""sizeof(struct xt_option_entry) up to 1.8.10, on 64-bit machines."""
_STRIDE_SINCE: Final = 56
"""The same from 1.8.11 on."""
_ONE_FILE: Final = 1 << 20
"""Bytes, more than an extension's file has: two names in it are less apart."""
_PROBED: Final = "TPROXY"


def adapt(xtables: Any, family: int) -> int:
    """Make the module ``iptc.xtables`` fit the library, and give the stride of the library's options in bytes.

    ``family`` is one whose tables have been opened by now: looking up an extension for a family that the kernel lacks
    ends the process (xtables_compatible_revision() calls exit). To be called once, with nothing else using the module.
    Raises :class:`RulesetError` when the kernel or the library has no TPROXY, or is of an unknown release.
    """
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        raise RulesetError("python-iptables is supported on 64-bit machines only. Use the iptables programs.")
    xtables.xtables._try_register = _leave_it_to_libxtables
    found = xtables.xtables(family).find_target(_PROBED)
    if not found:
        raise RulesetError(f"libxtables has no target {_PROBED}. {LOAD_EXTENSIONS_REMEDY}")
    for each in (xtables.NFPROTO_IPV4, xtables.NFPROTO_IPV6):
        xtables.xtables(each)._loaded(_PROBED.encode(), found)
    stride = stride_of(address_of(found[0].x6_options))
    if stride != ctypes.sizeof(xtables.xt_option_entry):
        _walk_by(stride, xtables)
    return stride


def address_of(pointer: Any) -> int:
    """Where a ctypes pointer points to."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


def stride_of(options: int) -> int:
    """The size of one option of the library, from the address of an array of at least three.

    Raises :class:`RulesetError` when it is neither of those known: reading by a wrong one could end the process.
    """
    for stride in (_STRIDE_BEFORE, _STRIDE_SINCE):
        names = [ctypes.c_uint64.from_address(options + stride * number).value for number in range(3)]
        if all(0 < abs(name - names[0]) < _ONE_FILE for name in names[1:]):
            return stride
    raise RulesetError("python-iptables does not know this release of libxtables. Use the iptables programs.")


def is_since_1_8_11(stride: int) -> bool:
    """Whether a library with such options is libxtables 1.8.11 or later."""
    return stride >= _STRIDE_SINCE


def walk(entry_type: Any, options: Any, stride: int) -> Iterator[Any]:
    """The entries of an array of options, up to the one without a name."""
    at = address_of(options)
    while (entry := entry_type.from_address(at)).name is not None:
        yield entry
        at += stride


def _walk_by(stride: int, module: Any) -> None:
    entry_type = module.xt_option_entry
    check = module.xtables._options_fcheck

    def look_up(_self: Any, options: Any, name: bytes) -> Any:
        return next((entry for entry in walk(entry_type, options, stride) if entry.name == name), None)

    def check_all(self: Any, name: bytes, given: int, options: Any) -> None:
        check(self, name, given, walk(entry_type, options, stride))

    module.xtables._option_lookup = look_up
    module.xtables._options_fcheck = check_all


def _leave_it_to_libxtables(_self: Any, _name: bytes) -> None:
    """In the place of ``xtables._try_register``: see the head of this module."""
