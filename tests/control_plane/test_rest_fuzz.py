"""Bad input: every operation, called as the OpenAPI document has it and otherwise, answers as the document says."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from control_plane.bootstrap import first_token
from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 10
"""Of each operation; there are some twenty-five."""


def test_every_operation_answers_as_it_is_documented(database_url: str) -> None:
    store = open_store(database_url)
    plane = ControlPlane(store)
    headers = {"Authorization": f"Bearer {first_token(plane)}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(plane))
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        def answers(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, headers=headers)

        answers()
    for tenant in plane.names():
        store.verify(tenant)
    store.close()
