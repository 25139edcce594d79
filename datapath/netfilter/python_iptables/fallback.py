"""``python -m datapath.netfilter.python_iptables.fallback FAMILY WAY DATAPATH``: do without the proxy.

For a supervisor whose proxy is gone, where there are no iptables programs: what :mod:`datapath.netfilter.fallback`
says, from the rules as they are. The refusal comes first, as there.
"""

from __future__ import annotations

import sys

from datapath.netfilter.fallback import without_proxy
from datapath.netfilter.parse import Installed, parse_rule
from datapath.netfilter.python_iptables.backend import PythonBackend
from datapath.netfilter.rules import Chain, Family, FamilyRules, Hook, Rule
from traffic_policy.settings import Datapath, OnFailure


def changed(installed: Installed, family: Family, way: OnFailure) -> FamilyRules | None:
    """What is there, as it is to be without a proxy. Pure. None when it has rules of others, which would be lost."""
    chains = []
    for name, rules in installed.chains.items():
        ours = tuple(rule for rule in rules if isinstance(rule, Rule))
        left = without_proxy(Chain(name, ours), way)
        if len(ours) != len(rules) and left == ours:
            return None
        chains.append(Chain(name, left))
    hooks = []
    for hook in installed.hooks:
        rule = parse_rule(hook.words, family)
        if isinstance(rule, str):
            return None
        hooks.append(Hook(hook.chain, rule))
    return FamilyRules(family, tuple(chains), tuple(hooks))


def main() -> None:
    """Change them; the policy routes stay as they are."""
    family, way, datapath = Family(int(sys.argv[1])), OnFailure(sys.argv[2]), Datapath(sys.argv[3])
    backend = PythonBackend()
    installed = backend.installed(family)
    rules = changed(installed, family, way)
    if rules is None:
        sys.exit("chains of ours hold rules of somebody else")
    if way is OnFailure.CLOSED:
        backend.refuse(family, datapath)
    backend.apply(rules, installed)


if __name__ == "__main__":
    main()
