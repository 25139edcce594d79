"""The packet mark layout, and the class ids that travel in it.

All programs in a network namespace share the 32-bit fwmark, so each of our fields is a value under a mask, chosen to
avoid kube-proxy (0x4000, 0x8000), Istio (0x539, 0x111), AWS VPC CNI (0x80) and others. Marks are cleared when a packet
leaves its namespace, so marks of CNI plugins on the node's side do not conflict with ours:

==============  ==========================================================================
``0xff000000``  class id: 1-254 a class of the policy, 255 the default class, 0 not decided
``0x00002000``  OWN: written by our proxy; never captured again
``0x00001000``  DIVERT: on its way to our proxy
==============  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from traffic_policy.errors import PodlaneError


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark value under a mask: bits outside ``mask`` belong to others and are never touched."""

    value: int
    mask: int

    def __post_init__(self) -> None:
        if not 0 <= self.mask <= 0xFFFFFFFF or self.value & ~self.mask:
            raise ValueError(f"mark {self.value:#x} does not fit under mask {self.mask:#x}")

    def __str__(self) -> str:
        """As iptables and tc write it: ``0x1000/0x3000``."""
        return f"{self.value:#x}/{self.mask:#x}"

    def __or__(self, other: Mark) -> Mark:
        """Both fields in one mark. They must not overlap."""
        if self.mask & other.mask:
            raise ValueError(f"marks {self} and {other} overlap")
        return Mark(self.value | other.value, self.mask | other.mask)


STATE_MASK: Final = 0x3000
DIVERT: Final = Mark(0x1000, STATE_MASK)
OWN: Final = Mark(0x2000, 0x2000)
UNDECIDED: Final = Mark(0x0, STATE_MASK)

CLASS_MASK: Final = 0xFF000000
CLASS_SHIFT: Final = 24
DEFAULT_CLASS_ID: Final = 0xFF
MAX_CLASSES: Final = DEFAULT_CLASS_ID - 1
"""Maximum number of classes in addition to the default class: ids 1 to 254."""


def class_mark(class_id: int) -> Mark:
    """The class field of a packet mark for a class id (1-255)."""
    if not 1 <= class_id <= DEFAULT_CLASS_ID:
        raise ValueError(f"class id {class_id} is outside 1 to {DEFAULT_CLASS_ID}")
    return Mark(class_id << CLASS_SHIFT, CLASS_MASK)


def class_id_of(mark: int) -> int:
    """The class id in a packet mark; 0 when none was decided."""
    return (mark & CLASS_MASK) >> CLASS_SHIFT


class ClassIds(Mapping[str, int]):
    """Class name -> class id, with the default class under its name ``default``.

    Ids are sticky: :meth:`evolve` keeps the id of every name that stays, so that marks on live sockets and connections
    keep meaning the same class after a policy change. A freed id is reused only when no other is left, and is then the
    one freed longest ago.
    """

    __slots__ = ("_ids", "_retired")

    def __init__(self, ids: Mapping[str, int], retired: tuple[int, ...] = ()) -> None:
        self._ids = dict(ids)
        self._retired = retired

    @classmethod
    def assign(cls, names: Iterable[str]) -> ClassIds:
        """Fresh ids in the order of the names (policy order): the same policy always gets the same ids."""
        return cls({}).evolve(names)

    def evolve(self, names: Iterable[str]) -> ClassIds:
        """Ids for a changed list of class names."""
        wanted = [name for name in names if name != "default"]
        if len(wanted) > MAX_CLASSES:
            raise PodlaneError(
                f"{len(wanted)} classes do not fit in the mark, which has room for {MAX_CLASSES}. Merge some classes."
            )
        kept = {name: self._ids[name] for name in wanted if name in self._ids}
        gone = [i for name, i in self._ids.items() if name not in kept and name != "default"]
        retired = [*self._retired, *gone]
        used = set(kept.values()) | set(retired)
        fresh = (i for i in range(1, DEFAULT_CLASS_ID) if i not in used)
        ids: dict[str, int] = {}
        for name in wanted:
            class_id = kept.get(name)
            if class_id is None:
                class_id = next(fresh, None)
            ids[name] = class_id if class_id is not None else retired.pop(0)
        ids["default"] = DEFAULT_CLASS_ID
        return ClassIds(ids, tuple(retired))

    def to_document(self) -> dict[str, Any]:
        """Plain data, with the ids that must not be reused soon."""
        return {"ids": dict(self), "retired": list(self.retired)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ClassIds:
        """The inverse of :meth:`to_document`."""
        return cls(document["ids"], tuple(document["retired"]))

    @property
    def retired(self) -> tuple[int, ...]:
        """Ids that classes had which are gone, the one freed longest ago first."""
        return self._retired

    def __getitem__(self, name: str) -> int:
        return self._ids[name]

    def __hash__(self) -> int:
        return hash(frozenset(self._ids.items()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def name_of(self, class_id: int) -> str | None:
        """The class with this id, if there is one."""
        return next((name for name, i in self._ids.items() if i == class_id), None)
