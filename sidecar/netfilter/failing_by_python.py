"""``python -m sidecar.netfilter.empty_by_python FAMILY CHAIN ...``: empty chains of ours by python-iptables.

For a supervisor whose proxy is gone, where there are no iptables programs.
"""

from __future__ import annotations

import sys
from collections.abc import Set

from sidecar.netfilter.choose import python_backend
from sidecar.netfilter.parse import Installed, parse_rule
from sidecar.netfilter.rules import Chain, Family, FamilyRules, Hook, Rule


def without(installed: Installed, family: Family, names: Set[str]) -> FamilyRules | None:
    """What is there, with these chains empty. Pure. None when it holds what is none of ours, which must not be lost."""
    chains = []
    for name, rules in installed.chains.items():
        kept = () if name in names else tuple(rule for rule in rules if isinstance(rule, Rule))
        if name not in names and len(kept) != len(rules):
            return None
        chains.append(Chain(name, kept))
    hooks = []
    for hook in installed.hooks:
        rule = parse_rule(hook.words, family)
        if isinstance(rule, str):
            return None
        hooks.append(Hook(hook.chain, rule))
    return FamilyRules(family, tuple(chains), tuple(hooks))


def main() -> None:
    """Empty them; the policy routes stay as they are."""
    family = Family(int(sys.argv[1]))
    backend = python_backend()
    installed = backend.installed(family)
    rules = without(installed, family, frozenset(sys.argv[2:]))
    if rules is None:
        sys.exit("chains of ours hold rules of somebody else")
    backend.apply(rules, installed)


if __name__ == "__main__":
    main()
