"""Policies and trees for tests of traffic control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tc_core.compile.ingress_classifier import IngressClassifier
from tc_core.compile.mark_tree import compile_policy
from tc_core.model import TrafficTree
from tc_core.probe.capability import ALL_FEATURES, CONNMARK, FQ_CODEL, FW, SOCKETS, Features, absent
from traffic_policy.marks import ClassIds
from traffic_policy.policy import TrafficPolicy

FW_FQ_CODEL = ALL_FEATURES
CLASSIC_FIFO = replace(ALL_FEATURES, fw=absent(FW, "not here"), fq_codel=absent(FQ_CODEL, "not here"))
_NO_SOCKETS = replace(ALL_FEATURES, sockets=absent(SOCKETS, "no CAP_BPF"))
TOLD_BY: Mapping[IngressClassifier, Features] = {
    IngressClassifier.SOCKETS: ALL_FEATURES,
    IngressClassifier.CONNMARK: _NO_SOCKETS,
    IngressClassifier.PACING: replace(_NO_SOCKETS, connmark=absent(CONNMARK, "not here")),
}
"""Kernels on which the class of what arrives is told so, where names decide and a relay has the connections."""
VARIANTS: Mapping[str, Features] = {
    "fw and fq_codel": FW_FQ_CODEL,
    "classic bpf and fifo": CLASSIC_FIFO,
    "fw and fifo": replace(FW_FQ_CODEL, fq_codel=absent(FQ_CODEL, "not here")),
    "classic bpf and fq_codel": replace(FW_FQ_CODEL, fw=absent(FW, "not here")),
}


def policy(total: str = "100Mbit", default: Mapping[str, Any] | None = None, **classes: str) -> TrafficPolicy:
    """A policy with classes given as ``name="rate ceil priority"``; the later words may be left out."""
    written = []
    for port, (name, words) in enumerate(classes.items(), start=1):
        keys = zip(("rate", "ceil", "priority"), words.split(), strict=False)
        limits: dict[str, Any] = {k: int(v) if k == "priority" else v for k, v in keys}
        written.append({"name": name, **limits, "match": [{"port": [port]}]})
    document = {"total": total, "classes": written, **({"default": default} if default else {})}
    return TrafficPolicy.model_validate(document)


def tree_of(written: TrafficPolicy, features: Features = FW_FQ_CODEL, ids: ClassIds | None = None) -> TrafficTree:
    """The tree of a policy, with fresh ids unless some are given."""
    return compile_policy(written, features, ids or ClassIds.assign(c.name for c in written.classes))
