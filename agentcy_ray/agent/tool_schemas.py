"""Checking arguments against a tool's JSON Schema, with messages that a model can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema_rs
import orjson

from agentcy_ray.core.errors import ConnectorError, ToolArgumentsError
from agentcy_ray.core.tools import ToolSpec

SHOWN = 5
"""Faults that a message lists; a model mends them in one go."""


class ArgumentChecks:
    """Compiled validators, one per tool declaration."""

    def __init__(self) -> None:
        self._validators: dict[bytes, Any] = {}

    def check(self, name: str, spec: ToolSpec, args: Mapping[str, Any]) -> None:
        """Return when ``args`` fit.

        Raises:
            ToolArgumentsError: they do not; ``details["errors"]`` lists ``{loc, message}``.
            ConnectorError: the tool's author declared something that is no JSON Schema.
        """
        validator = self._validator(name, spec)
        if validator.is_valid(args):
            return
        errors: list[dict[str, str]] = []
        for error in validator.iter_errors(args):
            where = ".".join(str(part) for part in error.instance_path)
            errors.append({"loc": where or "args", "message": error.message[:300]})
        shown = "; ".join(f"{e['loc']}: {e['message']}" for e in errors[:SHOWN])
        properties: Mapping[str, Any] = spec.input_schema.get("properties", {})
        required = set(spec.input_schema.get("required", ()))
        takes = ", ".join(f"{p} (required)" if p in required else p for p in properties)
        raise ToolArgumentsError(
            f"{name} does not take these arguments: {shown}. It takes: {takes or 'none'}",
            errors=errors,
        )

    def _validator(self, name: str, spec: ToolSpec) -> Any:
        key = orjson.dumps(spec.input_schema)
        found = self._validators.get(key)
        if found is None:
            try:
                found = jsonschema_rs.validator_for(spec.input_schema)
            except (jsonschema_rs.ValidationError, ValueError) as error:
                raise ConnectorError(
                    f"the input schema of {name} is not a JSON Schema: {error}; "
                    "tell the author of the connector"
                ) from error
            self._validators[key] = found
        return found
