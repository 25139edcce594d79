"""Reviews that no API server sends: valid ones mutated and mutilated, and what is none. The same seed gives the same."""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.admission import reviews
from benchmarks.admission.run import patched
from injector.admission import mutate
from injector.defaults import InjectionDefaults
from injector.webhook import MAX_BODY
from tests.documents import places
from tests.injector_server import review

EGRESS, CLASSES, DEFAULT = "podlane.io/egress-bandwidth", "podlane.io/classes", "podlane.io/default-class"
LIMITED: Final = {EGRESS: "10M"}
JSON: Final = {"content-type": "application/json"}

OTHERS: Final = (
    None, True, False, 0, -1, 2**63, 2**70, 10**4000, -0.0, 1e308, "", "x", "podlane", "\x00", "\ufeff", "é" * 100, "a/b~c~0",
    [], [None], [[]], [{}], {}, {"": ""}, {"name": "podlane"}, {"name": None}, [{"name": 1}], [{"name": "podlane"}] * 3,
)  # fmt: skip
"""What takes the place of whatever was there."""

TAGGED: Final = (
    "!!bool x", "!!int ''", "!!int x", "!!float ''", "!!float .", "!!timestamp x", "!!binary '*'", "!!null x", "!!map [a]",
    "!!seq {a: 1}", "!!set {a, b}", "!!omap [a]", "!!pairs [a: 1]", "!!str [a]", "!x y", "!!python/object/apply:os.abort []",
    "!!python/name:os.abort", "2020-13-45", "0001-01-01T00:00:00+23:59", "1:59:59", "1:59:59.5", ".inf", ".nan", "1e400", "=",
    "<<", "{<<: x}", "{<<: {a: 1}}", "? [a, b]\n: c", "{[a]: b}", "*a", "&a", "&a [*a]", "&a {*a : *a}", "\x00", "\ud7ff", "\t", "|",
    "%YAML 9.9\n--- []", "--- []\n--- []", "{a: 1, a: 2}", "0x" + "f" * 9000, "1" + ":59" * 4000, "1" + ":59" * 4000 + ".5", "9" * 9000,
)  # fmt: skip
"""YAML whose values are not what their tags say, or too much for what reads them."""

WHOLE: Final[tuple[Callable[[], str], ...]] = (
    lambda: "".join(f"- &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(40)),
    lambda: "- &a0 {x: 1}\n" + "".join(f"- &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)),
    lambda: "[" * 50_000,
    lambda: "[" * 900 + "]" * 900,
    lambda: "{a: " * 20_000,
    lambda: "- " * 950,
    lambda: "- &a [*a]",
    lambda: "[{name: a, rate: 1Mbit, match: {port: [" + ",".join(map(str, range(1, 5000))) + "]}}]",
    lambda: "[{name: a, rate: 1Mbit, match: {sni: ['" + "*." * 20_000 + "']}}]",
    lambda: "[{name: a, rate: " + "9" * 20_000 + "Mbit, match: {port: 1}}]",
    lambda: "[{name: a, rate: 1Mbit, match: {cidr: [0/0, ::/0, 1/33, '" + "1" * 9000 + "']}}]",
    lambda: "x" * 100_000,
)
"""Whole texts for the annotation with classes."""

VALUES: Final = (
    "", " ", "0", "-1M", "10m", "1e999999999", "1" * 50_000, "1" * 50_000 + "s", "." * 5000, "10M\n", "１０M", "10Mbit", "NaN",
    "1" * 50_000 + "M", "25," * 5000, "1-65535," * 200, "65535-1", "::/129", "10.0.0.0/8," * 200, "../../x", "%00", "{}", "[]",
    '{"version":', '{"injected":{"containers":[1]}}', '{"a":' * 900 + "1" + "}" * 900,
)  # fmt: skip
"""For any annotation."""
_KEYS: Final = (
    EGRESS, "podlane.io/ingress-bandwidth", CLASSES, DEFAULT, "podlane.io/policy", "podlane.io/exclude-outbound-ports",
    "podlane.io/exclude-outbound-cidrs", "podlane.io/on-failure", "podlane.io/detection-timeout", "podlane.io/datapath",
    "podlane.io/log-level", "podlane.io/mesh", "podlane.io/cpu-request", "podlane.io/memory-limit", "podlane.io/status", "podlane.io/inject",
    "podlane.io/x", "kubernetes.io/egress-bandwidth",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A request. ``sort`` says what is wrong with it, for whoever reads that it was answered wrongly."""

    sort: str
    body: bytes
    method: str = "POST"
    path: str = "/mutate"
    content_type: str | None = JSON["content-type"]


def cases(number: int, seed: int) -> Iterator[Case]:
    """So many of them."""
    chance = random.Random(seed)
    makers, weights = zip(*_SORTS, strict=True)
    for _ in range(number):
        (make,) = chance.choices(makers, weights)
        made = make(chance)
        case = made if isinstance(made, Case) else Case(make.__name__.strip("_"), made)
        if case.path == "/mutate" and chance.random() < 0.4:
            case = Case(case.sort, case.body, case.method, "/validate", case.content_type)
        yield case


def _valid(chance: random.Random) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(chance.choices(_VALID, (6, 6, 4, 6, 3, 1))[0])
    return document


def _document(chance: random.Random) -> Any:
    """A valid review with something of it replaced, renamed or gone."""
    document = _valid(chance)
    ways = [way for way in places(document) if way]
    for _ in range(chance.randint(1, 4)):
        *way, last = chance.choice(ways)
        spot: Any = document
        try:
            for key in way:
                spot = spot[key]
            if chance.random() < 0.3:
                del spot[last]
            elif isinstance(spot, dict) and chance.random() < 0.2:
                spot[f"{last}{chance.choice('sS~/ ')}"] = spot.pop(last)
            else:
                spot[last] = copy.deepcopy(chance.choice(OTHERS))
        except (LookupError, TypeError):
            continue  # an earlier change took the place away
    return document


def _changed(chance: random.Random) -> bytes:
    return _text(_document(chance))


def _text(document: object) -> bytes:
    return json.dumps(document).encode()


def _damaged(chance: random.Random) -> bytes:
    """Bytes cut off, changed, put in."""
    body = bytearray(_text(_valid(chance)))
    match chance.randrange(4):
        case 0:
            del body[chance.randrange(len(body)) :]
        case 1:
            for _ in range(chance.randint(1, 5)):
                body[chance.randrange(len(body))] = chance.randrange(256)
        case 2:
            place = chance.randrange(len(body))
            body[place:place] = chance.choice(_STRANGE)
        case _:
            body += chance.choice(_STRANGE)
    return bytes(body)


_STRANGE: Final = (
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x00", b"\xef\xbb\xbf", b",", b"]", b"}", b"//", b"'", b"NaN",
    b"1e999", b"9" * 5000, b'"\\ud800"', b'"\\u0000"', b"\\", b"\n\n", b"{}", b"1",
)  # fmt: skip


def _number(chance: random.Random) -> bytes:
    """Numbers that JSON has not, or Python cannot hold."""
    wrong = chance.choice(
        (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 5000, b"01", b"+1", b".5", b"0x1", b"1E400")
    )
    body = _text(_document(chance))
    place = body.find(b'"', chance.randrange(len(body)))
    end = body.find(b'"', place + 1)
    return body[:place] + wrong + body[end + 1 :] if 0 <= place < end else wrong


def _surrogate(chance: random.Random) -> bytes:
    """Halves of pairs, in keys and values, as JSON can write them and UTF-8 cannot."""
    document = _valid(chance)
    half = chance.choice(("\ud800", "\udfff", "\udc00\ud800"))
    request = document["request"]
    match chance.randrange(4):
        case 0:
            request["uid"] = half
        case 1:
            request["object"]["metadata"]["annotations"][f"podlane.io/{half}"] = half
        case 2:
            request["object"]["metadata"]["labels"] = {"podlane.io/inject": half}
        case _:
            request["object"]["spec"]["containers"][0]["name"] = half
    return _text(document)


def _twice(chance: random.Random) -> bytes:
    """The same key twice in an object."""
    body = _text(_valid(chance))
    key = chance.choice((b'"uid": ', b'"request": ', b'"object": ', b'"metadata": ', b'"annotations": ', b'"spec": '))
    value = _text(chance.choice(OTHERS))
    return body.replace(key, key + value + b", " + key, 1)


def _marked(chance: random.Random) -> bytes:
    """UTF-8's mark, which is allowed to be passed over; other encodings, which are not."""
    text = json.dumps(_valid(chance))
    return text.encode(chance.choice(("utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-7")))


def _deep(chance: random.Random) -> bytes:
    """Lists in lists, and objects in objects."""
    depth = chance.choice((50, 400, 900, 930, 950, 970, 2000, 100_000))
    begin, end = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"name":', b"}]")))
    nested = begin * depth + b"1" + end * (depth if chance.random() < 0.7 else 0)
    document = _valid(chance)
    pod = document["request"]["object"]
    spot = chance.choice(
        (document, document["request"], pod, pod["spec"], pod["metadata"], pod["metadata"]["annotations"])
    )
    key = chance.choice(list(spot))
    spot[key] = "HERE"
    return _text(document).replace(b'"HERE"', nested)


def _no_object(chance: random.Random) -> bytes:
    return chance.choice(
        (b"", b" ", b"[]", b"[{}]", b"null", b"true", b"0", b'"x"', b"{", b"}", b"{}", b"{}{}", b"\x00" * 100, b"<a/>", b"a: b\n",
         b"\x0a\x02v1\x12\x03Pod", b'{"a"}', b"{'a': 1}", b'{"kind": "AdmissionReview"}', b"[" * 1000, _text([_valid(chance)]))
    )  # fmt: skip


def _versions(chance: random.Random) -> bytes:
    """Of other versions, kinds and operations."""
    document = _valid(chance)
    request = document["request"]
    kinds = (
        {"group": "apps", "version": "v1", "kind": "Deployment"}, {"group": "", "version": "v2", "kind": "Pod"},
        {"kind": "Pod"}, {"group": None, "kind": "Pod"}, {"group": "", "kind": ["Pod"]}, None, "Pod", [],
    )  # fmt: skip
    for change in chance.sample(
        [
            lambda: document.update(
                apiVersion=chance.choice(("admission.k8s.io/v1beta1", "v1", "", None, 1, "admission.k8s.io/v2"))
            ),
            lambda: document.update(kind=chance.choice(("Review", "Pod", "", None, {}, "AdmissionReviewList"))),
            lambda: request.update(kind=chance.choice(kinds)),
            lambda: request.update(
                operation=chance.choice(("UPDATE", "DELETE", "CONNECT", "create", "", None, 1, ["CREATE"]))
            ),
            lambda: request.update(subResource=chance.choice(("ephemeralcontainers", "status", "", None, 1, []))),
            lambda: request.update(oldObject=chance.choice(OTHERS)),
            lambda: request.update(uid=chance.choice(("", None, 1, [], "x" * 10_000, "\u2028"))),
        ],
        chance.randint(1, 2),
    ):
        change()
    return _text(document)


def _annotations(chance: random.Random) -> bytes:
    """Texts that are made to hurt whatever reads YAML, quantities and lists."""
    document = _valid(chance)
    metadata = document["request"]["object"]["metadata"]
    found = metadata["annotations"] = {**LIMITED, **(metadata.get("annotations") or {})}
    match chance.randrange(5):
        case 0:
            found[CLASSES] = chance.choice(WHOLE)()
        case 1:
            found[chance.choice((CLASSES, DEFAULT))] = chance.choice(TAGGED)
        case 2:
            form = chance.choice(
                ("[{name: %, rate: 1Mbit, match: {port: 80}}]", "[{name: a, rate: %, match: {port: %}}]", "[{%: %}]", "[%]",
                 "[{name: a, rate: 1Mbit, priority: %, match: [{sni: [%]}]}]", "[{name: a, rate: 1Mbit, match: %}]")
            )  # fmt: skip
            found[CLASSES] = form.replace("%", chance.choice(TAGGED))
        case _:
            for key in chance.sample(_KEYS, chance.randint(1, 4)):
                found[key] = chance.choice(VALUES) if chance.random() < 0.8 else copy.deepcopy(chance.choice(OTHERS))
    return _text(document)


def _big(chance: random.Random) -> bytes:
    """Just within what is read, as one text, as very many values, or as white space."""
    document = _valid(chance)
    request = document["request"]
    unit = chance.choice(('"', "[],", "{},", '{"name":""},', "0.5,", '"a",', " "))
    room = MAX_BODY - 30_000
    if unit == '"':
        text = f'"{"x" * room}"'
    elif unit == " ":
        return _text(document) + b" " * room
    else:
        text = f"[{(unit * (room // len(unit))).rstrip(',')}]"
    spot = chance.choice((request, request["object"], request["object"]["spec"], request["object"]["metadata"]))
    spot[chance.choice(list(spot))] = "HERE"
    return _text(document).replace(b'"HERE"', text.encode())


def _too_big(chance: random.Random) -> bytes:
    return _text(_valid(chance)) + b" " * MAX_BODY


def _head(chance: random.Random) -> Case:
    """Right bodies under wrong heads."""
    body = _text(_valid(chance))
    method = chance.choices(("POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "X"), (8, 1, 1, 1, 1, 1, 1))[0]
    path = chance.choice(
        ("/mutate", "/validate", "/", "/mutate/", "/MUTATE", "/mutate%00", "/../mutate", "/mutate?timeout=0s", "/mutate?timeout=-1s",
         "/mutate?timeout=x&timeout=", "/mutate?" + "a=b&" * 500, "/mutate?timeout=" + "9" * 3000 + "h", "/" + "x" * 5000, "/%ff")
    )  # fmt: skip
    content_type = chance.choice(
        (None, "", "application/json", "application/json; charset=utf-16", "APPLICATION/JSON", "application/jsonx", "text/plain",
         "application/yaml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "/", ";", "application/json" * 200)
    )  # fmt: skip
    return Case("head", body, method, path, content_type)


def _injected(given: dict[str, Any]) -> dict[str, Any]:
    """The review of a Pod that has been injected already."""
    answer = mutate(given, InjectionDefaults(), lambda _namespace, _name: None)
    changes = json.loads(base64.b64decode(answer["response"]["patch"]))
    return {**given, "request": {**given["request"], "object": patched(given["request"]["object"], changes)}}


_VALID: Final = (
    _text(review(LIMITED)),
    _text(review({**LIMITED, CLASSES: '[{name: api, rate: 1Mbit, match: {sni: "*.example.com"}}]'})),
    _text(review({"podlane.io/policy": "lanes"})),
    _text(_injected(review(LIMITED))),
    *(reviews.mutation(pod).body for name, pod in reviews.pods().items() if name != "plain"),
)
_SORTS: Final[tuple[tuple[Callable[[random.Random], bytes | Case], float], ...]] = (
    (_changed, 40),
    (_damaged, 14),
    (_number, 6),
    (_surrogate, 4),
    (_twice, 4),
    (_marked, 4),
    (_deep, 4),
    (_no_object, 4),
    (_versions, 8),
    (_annotations, 16),
    (_head, 5),
    (_big, 0.08),
    (_too_big, 0.07),
)
