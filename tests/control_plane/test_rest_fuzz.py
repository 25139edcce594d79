"""Bad input: every operation, called as the OpenAPI document has it and otherwise, answers as the document says."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from control_plane.bootstrap import first_token
from control_plane.domain.access import Role
from control_plane.domain.checked_policy import CheckedPolicy
from control_plane.domain.commands import AddCluster, DraftPolicy, GrantGroup, PublishPolicy
from control_plane.domain.rollout import RolloutPlan, Stage
from control_plane.http.app import create_app
from control_plane.service import Circumstances, ControlPlane
from control_plane.store.event_store import open_store

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12
"""Of each operation; there are some twenty-five."""
REAL = {"tenant": "default", "policy": "web", "cluster": "east", "group": "ops"}
"""Names that there are. Those that a schema gives rise to lead nowhere."""
POLICY = {"total": "100Mbit", "classes": [{"name": "web", "rate": "1Mbit", "match": [{"port": [443]}]}]}
CONDITIONS = ("If-Match", "If-None-Match", "Idempotency-Key")


@pytest.mark.timeout(400)  # a hundred operations
def test_every_operation_answers_as_it_is_documented(database_url: str) -> None:
    store = open_store(database_url)
    plane = ControlPlane(store)
    headers = {"Authorization": f"Bearer {first_token(plane)}"}
    by = Circumstances("test")
    plane.carry_out("default", AddCluster("east"), by)
    for command in (
        DraftPolicy("web", CheckedPolicy.from_document(POLICY)),
        PublishPolicy("web", RolloutPlan((Stage(count=1),))),
        DraftPolicy("web", CheckedPolicy.from_document({**POLICY, "total": "90Mbit"})),
        GrantGroup("ops", Role.EDITOR),
    ):
        plane.carry_out("default", command, by)
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(plane))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    well = set()
    # What removes the names that the others need comes last.
    for operation in sorted(operations, key=lambda each: (each.method.upper() == "DELETE", -len(each.path))):

        @given(case=operation.as_strategy(), real=st.booleans(), plain=st.booleans(), sound=st.booleans())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def answers(case: schemathesis.Case, real: bool, plain: bool, sound: bool) -> None:
            if real:
                case.path_parameters.update({name: REAL[name] for name in case.path_parameters.keys() & REAL.keys()})
            if plain:
                for name in CONDITIONS:
                    case.headers.pop(name, None)
            if sound and isinstance(case.body, dict) and "document" in case.body:
                case.body["document"] = POLICY
            if case.call_and_validate(checks=CHECKS, headers=headers).status_code < 300:
                well.add(case.operation.label)

        answers()
    # The ids of tokens and nodes cannot be guessed, and there is no identity provider by which to log in.
    beyond = ("{node}", "{token}", "/v1/login")
    unreached = {each.label for each in operations if not any(part in each.path for part in beyond)} - well
    assert len(unreached) <= 2, unreached
    for tenant in plane.names():
        store.verify(tenant)
    store.close()
