"""What the API server itself checks of a policy, in CEL, with messages that carry the remedy. Pure.

It knows what :mod:`traffic_policy.check` knows, as far as CEL can say it within the API server's budget of cost: sums
and comparisons of rates, but not which match hides another
(https://kubernetes.io/docs/reference/using-api/cel/ has the libraries).
"""

from __future__ import annotations

from typing import Any, Final

from traffic_policy.fields import RATE_PATTERN
from traffic_policy.policy import MIN_RATE

Rule = dict[str, Any]
MOST_MATCHES: Final = 500
"""Of a policy (traffic_policy.pod.composition)."""
MOST_MATCHES_OF_CLASS: Final = 100
"""With more, what the rules of a match may cost is beyond the budget."""
_LONGEST_DELAY_S: Final = 60


def rule(rule: str, message: str, expression: str = "") -> Rule:
    """One rule; ``expression`` is a message with figures, in CEL."""
    return {"rule": rule, "message": message, **({"messageExpression": expression} if expression else {})}


def _quantity(rate: str) -> str:
    """A rate of the policy grammar as text of a Kubernetes quantity: ``1.5 Gbit/s`` is ``1.5G``."""
    steps = (("/s", ""), ("ps", ""), ("bits", ""), ("bit", ""), (" ", ""), ("m", "M"), ("g", "G"), ("t", "T"))
    return f"{rate}.lowerAscii()" + "".join(f".replace('{a}', '{b}')" for a, b in (*steps, ("ki", "Ki")))


def _bits(rate: str) -> str:
    """Bits per second; 0 of what is no rate, which its own rule tells."""
    return f"(isQuantity({_quantity(rate)}) ? quantity({_quantity(rate)}).asApproximateFloat() : 0.0)"


def _promised(*path: str) -> str:
    """The guarantees of all classes together; ``path`` leads from a class to the rate."""
    key = ".".join(path)

    def there(of: str) -> str:
        return " && ".join(f"has({of}.{'.'.join(path[: n + 1])})" for n in range(len(path)))

    classes = f"self.classes.map(c, {there('c')} ? {_bits(f'c.{key}')} : 0.0).sum()"
    default = f"has(self.default) && {there('self.default')} ? {_bits(f'self.default.{key}')} : 0.0"
    return f"(has(self.classes) ? {classes} : 0.0) + ({default})"


_PROMISED: Final = _promised("rate")
_PROMISED_INGRESS: Final = _promised("ingress", "rate")


def _within(promised: str, total: str, guard: str, key: str) -> Rule:
    return rule(
        f"{guard} || !isQuantity({_quantity(total)}) || {promised} <= {_bits(total)}",
        f"The rates of the classes are more than {key} together. Lower them, or raise {key}.",
        # The sum itself is not told: a number's text could be of any length, says the estimate of cost.
        f"'The rates of the classes are more than {key}, ' + {total} + ', together. Lower them, or raise {key}.'",
    )


_FORM: Final = f"self.matches('{RATE_PATTERN}')".replace("\\", "\\\\")
RATE: Final = (
    rule(_FORM, "This is not a rate. Write bits per second with a unit, as in 100Mbit, 1.5Gbit or 800kbit."),
    rule(
        f"!{_FORM} || {_bits('self')} >= {MIN_RATE.bits_per_second}.0",
        f"This is too little to carry packets. Raise it to {MIN_RATE} or more.",
    ),
)
_CEIL: Final = rule(
    f"!has(self.ceil) || !has(self.rate) || {_bits('self.ceil')} >= {_bits('self.rate')}",
    "A class cannot be held to less than is guaranteed to it. Lower rate, or raise ceil.",
    "'A class cannot be held to ' + self.ceil + ' while ' + self.rate + ' is guaranteed to it. Lower rate to ' "
    "+ self.ceil + ', or raise ceil to ' + self.rate + '.'",
)
_QUEUE: Final = rule(
    "!has(self.queue) || self.queue == 'auto' || !has(self.rehearsal)",
    "Delayed packets wait in the queue of the rehearsal, so there is no other. Remove queue, or the rehearsal.",
)
_NAMES: Final = "has(self.sni) || has(self.host) || has(self.alpn)"
_CRITERIA: Final = f"{_NAMES} || has(self.port) || has(self.application) || has(self.cidr) || has(self.source)"
_SHORT: Final = ".replace(' ', '')"

SPEC: Final = (
    _within(_PROMISED, "self.total", "!has(self.total)", "total"),
    _within(_PROMISED, "self.budget.node", "!has(self.budget)", "budget.node"),
    _within(_PROMISED_INGRESS, "self.ingress.total", "!has(self.ingress)", "ingress.total"),
    rule(
        "has(self.ingress) || ((!has(self.classes) || !self.classes.exists(c, has(c.ingress))) "
        "&& !(has(self.default) && has(self.default.ingress)))",
        "A class limits what it receives, but the bandwidth of what arrives is not given. "
        "Add it under spec, as in ingress: {total: 100Mbit}.",
    ),
    rule(
        "!has(self.rehearsal) || ((!has(self.classes) || self.classes.all(c, !has(c.queue) || c.queue == 'auto')) "
        "&& !(has(self.default) && has(self.default.queue) && self.default.queue != 'auto'))",
        "Delayed packets wait in the queue of the rehearsal, so there is no other. Remove queue, or the rehearsal.",
    ),
    rule(
        f"!has(self.classes) || self.classes.map(c, size(c.match)).sum() <= {MOST_MATCHES}",
        f"A policy has {MOST_MATCHES} matches at most. Merge them: a match may list many names, ports and networks.",
    ),
)
MESH: Final = (
    rule(
        "!has(self.mesh) || !has(self.podSelector) || !has(self.podSelector.matchExpressions)",
        "Istio's EnvoyFilter selects by labels that are equal. Write podSelector by matchLabels alone, or remove mesh.",
    ),
    rule(
        "!has(self.mesh) || "
        "(has(self.classes) && self.classes.exists(c, c.match.exists(m, has(m.sni) || has(m.host))))",
        "No match asks for a name, so the mesh's proxy has nothing to mark. Add sni or host to a match, "
        "or remove mesh.",
    ),
)
CLUSTER_SPEC: Final = (
    rule(
        "has(self.total) || has(self.caps)",
        "The policy says nothing. Add total, what each Pod may send, or caps, the most that Pods may have.",
    ),
    rule(
        "has(self.total) || !(has(self.classes) || has(self.default) || has(self.ingress) || has(self.rehearsal) "
        "|| has(self.budget))",
        "The classes have nothing to share. Add total, as in total: 100Mbit, or leave nothing but caps.",
    ),
)
CLASS: Final = (
    rule(
        "self.name != 'default'",
        "default is the name of the default class. Set it by the key default under spec, or write another name.",
    ),
    _CEIL,
    _QUEUE,
)
DEFAULT: Final = (_CEIL, _QUEUE)
CLASS_INGRESS: Final = (_CEIL,)
MATCH: Final = (
    rule(
        f"{_CRITERIA} || has(self.protocol)",
        "A match without a criterion would take all. Add one, as sni, host, port or cidr, "
        "or put these limits under the key default.",
    ),
    rule(
        "!(has(self.application) && has(self.port))",
        "application and port both say which ports. Keep one, or make two matches: they are alternatives.",
    ),
    rule(
        "!(has(self.protocol) && self.protocol.all(p, p == 'icmp') && (has(self.port) || has(self.application)))",
        "icmp has no ports. Remove port and application, or write protocol: [tcp] or [udp].",
    ),
    rule(
        f"!({_NAMES}) || !has(self.protocol) || 'tcp' in self.protocol || ('udp' in self.protocol && !has(self.host))",
        "Names are read from TCP connections, and sni and alpn from QUIC, which is UDP. Remove protocol, "
        "or match that traffic by port and cidr.",
    ),
)
REHEARSAL: Final = (
    rule(
        "has(self.delay) || has(self.jitter) || has(self.loss) || has(self.duplicate) || has(self.corrupt)",
        "The rehearsal is empty, so nothing is worse. Say what is, as in rehearsal: {delay: 50ms}.",
    ),
    rule(
        f"!has(self.jitter) || (has(self.delay) && duration(self.jitter{_SHORT}) <= duration(self.delay{_SHORT}))",
        "A delay cannot vary by more than it is: packets would leave before they came. Raise delay, or lower jitter.",
    ),
    rule(
        f"!has(self.delay) || duration(self.delay{_SHORT}) <= duration('{_LONGEST_DELAY_S}s')",
        f"The delay is longer than any path. Write {_LONGEST_DELAY_S}s or less.",
    ),
)
REQUIREMENT: Final = (
    rule(
        "self.operator in ['In', 'NotIn'] ? (has(self.values) && size(self.values) > 0) : !has(self.values)",
        "In and NotIn need values; Exists and DoesNotExist have none. Add values, or remove them.",
    ),
)
CAPS: Final = (
    rule(
        "has(self.total) || has(self.ingress) || has(self.ceil) || has(self.priority)",
        "The caps are empty. Say the most that Pods may have, as in caps: {total: 1Gbit}.",
    ),
)
