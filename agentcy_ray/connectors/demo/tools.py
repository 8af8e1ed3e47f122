"""The demo's tools: one of each effect."""

from __future__ import annotations

from typing import Any

from agentcy_ray.core.tools import Effect, ToolSpec


def _arguments(**fields: str) -> dict[str, Any]:
    """A closed object schema of required text fields."""
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "minLength": 1, "maxLength": 100, "description": meaning}
            for name, meaning in fields.items()
        },
        "required": list(fields),
        "additionalProperties": False,
    }


TOOLS = (
    ToolSpec(
        name="lookup",
        title="Look up a record",
        description="Look up one record of the demo company by its id and say what it points at.",
        input_schema=_arguments(id="id of the record, for example service-3"),
        effect=Effect.READ,
    ),
    ToolSpec(
        name="restart_service",
        title="Restart a service",
        description="Restart one service of the demo company and count its restarts.",
        input_schema=_arguments(service="id of the service, for example service-3"),
        effect=Effect.WRITE,
        probe=True,
    ),
    ToolSpec(
        name="delete_record",
        title="Delete a record",
        description="Delete one record of the demo company for good; the next sync archives it.",
        input_schema=_arguments(id="id of the record, for example customer-2"),
        effect=Effect.DESTRUCTIVE,
        probe=True,
        requires_approval=True,
    ),
)
