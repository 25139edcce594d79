"""What ``podlane mesh envoyfilter`` writes, against Istio's own CustomResourceDefinition."""

from __future__ import annotations

import pytest
from schemas import KUBERNETES, problems

from traffic_policy.mesh.istio import ALL, envoy_filter
from traffic_policy.policy_file import parse_policy

POLICY = """
total: 1Gbit
classes:
  - {name: api, rate: 10Mbit, match: [{host: api.example.com, port: 80}, {sni: [api.example.com]}]}
  - {name: outside, rate: 10Mbit, match: [{sni: "*.cloud.example"}, {host: "*.cloud.example"}]}
"""


@pytest.mark.usefixtures("_schemas")
@pytest.mark.parametrize("external", [(), ("*.cloud.example",), (ALL,)], ids=["mesh", "both", "outside"])
def test_istio_takes_the_envoyfilter(external: tuple[str, ...]) -> None:
    made = envoy_filter(parse_policy(POLICY), namespace="shop", selector={"app": "web"}, external=external)
    assert list(problems(made.document, KUBERNETES[0])) == []


@pytest.mark.usefixtures("_schemas")
def test_the_schema_would_find_a_mistake() -> None:
    document = envoy_filter(parse_policy(POLICY)).document
    patch = document["spec"]["configPatches"][0]
    patch["applyTo"] = "CLUSTERS"
    patch["match"]["cluster"]["host"] = patch["match"]["cluster"].pop("service")
    assert len(list(problems(document, KUBERNETES[0]))) == 2
