"""Generates ``docs/reference/admin-api.md`` from the types of the documents.

    python -m daemon.documents.reference > docs/reference/admin-api.md

A field is described by the string literal after it, which Python does not keep, so the source is parsed.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from daemon.documents import classes, connections, node, policy, workloads
from daemon.documents.codec import key_of
from daemon.documents.health import NOT_READY, READY

_HEAD: Final = f"""# The admin API

<!-- Written by `python -m daemon.documents.reference` from daemon/documents; a test compares them. -->

A sidecar answers on its admin port (`--admin-port`, 15109) over HTTP/1.1, read only. Texts are UTF-8, documents are
JSON objects. Each key names its unit; what is not known is null. Keys may be added: ignore those that you do not know.

A [node agent](../how-to/agent.md#see-what-it-does) does so on port 15110. `/classes`, `/policy` and `/connections` are
those of one workload, which `?workload=NAME` names; `/workloads` and `/node` are the agent's alone.

## /healthz

A text. 200 while the proxy's event loop turns, and that of each worker: `ok`, and behind it, one per line, what is not
as it is wanted (a refused policy, QUIC without names, warnings). 503 names the workers that do not answer, and what
another program has removed of what was installed (`missing: `).

## /readyz

A text. 200 (`{READY}`) when all is in force; 503 (`{NOT_READY}`) before, while
something that was installed is missing, and while draining.

## /metrics

[Prometheus' text format](https://prometheus.io/docs/instrumenting/exposition_formats/), version 0.0.4.
"""
_PAGES: Final = (
    (classes, "Classes"),
    (policy, "EffectivePolicy"),
    (connections, "Connections"),
    (workloads, "Workloads"),
    (node, "NodeClasses"),
)


def reference() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_HEAD, *("\n".join(_page(module, outermost)) for module, outermost in _PAGES)])


def _page(module: ModuleType, outermost: str) -> Iterator[str]:
    tree = ast.parse(inspect.getsource(module))
    found = {each.name: each for each in tree.body if isinstance(each, ast.ClassDef)}
    path = str(module.__doc__).partition(":")[0].strip("`")
    yield f"## {path}\n"
    for name in (outermost, *(each for each in found if each != outermost)):
        if name != outermost:
            yield f"### {name} ({path})\n"
        yield f"{_markdown(ast.get_docstring(found[name]))}\n"
        yield "| key | type | meaning |\n|---|---|---|"
        yield from _rows(found[name])
        yield ""


def _rows(described: ast.ClassDef) -> Iterator[str]:
    for field, after in zip(described.body, [*described.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            meaning = _literal(after) if isinstance(after, ast.Expr) else ""
            kind = _type(field.annotation)
            if field.value is not None:  # omitted instead
                kind = kind.replace(" or null", " or absent")
            yield f"| `{key_of(field.target.id)}` | {kind} | {_markdown(meaning)} |"


def _literal(expression: ast.Expr) -> str:
    return str(ast.literal_eval(expression.value))


def _type(annotation: ast.expr) -> str:
    match annotation:
        case ast.BinOp(left=left):
            return f"{_type(left)} or null"
        case ast.Subscript(value=ast.Name("tuple"), slice=ast.Tuple(elts=[item, _])):
            return f"list of {_type(item)}"
        case ast.Subscript(slice=ast.Tuple(elts=[_, value])):
            return f"object of {_type(value)}"
    written = ast.unparse(annotation)
    return {"str": "string", "int": "integer", "float": "number", "object": "any"}.get(written, written)


def _markdown(text: str | None) -> str:
    return " ".join((text or "").replace("``", "`").split())


if __name__ == "__main__":
    sys.stdout.write(reference())
