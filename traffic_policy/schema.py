"""The JSON schema of policies, for editors (JSON Schema draft 2020-12). Pure.

It is made from the models that the loader uses (:mod:`traffic_policy.policy`), so that it has the same keys, and is
published as ``docs/policy.schema.json``. It knows the structure and the form of single values; what contradicts itself
across values only the loader finds (:mod:`traffic_policy.check`).
"""

from __future__ import annotations

import json
from typing import Any, Final

from traffic_policy.policy import TrafficPolicy

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""What pydantic writes (pydantic.json_schema.GenerateJsonSchema.schema_dialect)."""


def policy_schema() -> dict[str, Any]:
    """The schema as plain data. It has no ``$id``: an editor finds it by where the file is."""
    schema = TrafficPolicy.model_json_schema()
    return {
        "$schema": _DIALECT,
        **schema,
        "title": "Podlane traffic policy",
        "description": "How much bandwidth an interface has, which classes share it, and what belongs to each.",
    }


def policy_schema_text() -> str:
    """The schema as JSON text, as it is published."""
    return json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"
