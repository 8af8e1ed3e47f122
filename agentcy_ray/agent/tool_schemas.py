"""Checking arguments against a tool's JSON Schema, with messages that a model can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import jsonschema_rs
import orjson

from agentcy_ray.core.errors import ConnectorError, ToolArgumentsError
from agentcy_ray.core.redaction import is_secret_field
from agentcy_ray.core.tools import ToolSpec

SHOWN = 5
"""Faults that a message lists; a model mends them in one go."""
KEPT = 8192
"""Compiled validators that are remembered; beyond it the memory starts anew."""
_GOT_CHARS, _EXPECTED_CHARS = 60, 200


class ArgumentChecks:
    """Compiled validators, one per tool declaration.

    They are found by the identity of the spec, which a catalog keeps for as long as its source is
    unchanged; the spec is held with its validator, so that its identity is not given to another.
    """

    def __init__(self) -> None:
        self._compiled: dict[int, tuple[ToolSpec, Any]] = {}

    def check(self, name: str, spec: ToolSpec, args: Mapping[str, Any]) -> None:
        """Return when ``args`` fit.

        Raises:
            ToolArgumentsError: they do not; ``details["errors"]`` lists ``{loc, message}`` and,
                where they can be told, ``expected``, ``got`` and ``nearest``.
            ConnectorError: the tool's author declared something that is no JSON Schema.
        """
        found = self._compiled.get(id(spec))
        validator = found[1] if found is not None else self._compile(name, spec)
        if validator.is_valid(args):
            return
        faults = [fault for error in validator.iter_errors(args) for fault in _faults(error, spec)]
        shown = "; ".join(f"{fault['loc']}: {fault['message']}" for fault in faults[:SHOWN])
        if len(faults) > SHOWN:
            shown += f"; and {len(faults) - SHOWN} more"
        raise ToolArgumentsError(
            f"{name} does not take these arguments: {shown}. It takes: {_takes(spec.input_schema)}",
            errors=faults,
        )

    def _compile(self, name: str, spec: ToolSpec) -> Any:
        try:
            validator = jsonschema_rs.validator_for(spec.input_schema)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            raise ConnectorError(
                f"the input schema of {name} is not a JSON Schema: {error}; "
                "tell the author of the connector"
            ) from error
        if len(self._compiled) >= KEPT:
            self._compiled.clear()
        self._compiled[id(spec)] = (spec, validator)
        return validator


def _faults(error: Any, spec: ToolSpec) -> list[dict[str, str]]:
    """What is wrong at one place, in the words of a repair."""
    path, kind, name = list(error.instance_path), error.kind, error.kind.name
    place = ".".join(str(part) for part in path) or "args"
    if name == "additionalProperties":
        # One fault for each unknown key: each has a nearest name of its own.
        return [_unknown(path, key, _known(spec, error)) for key in kind.unexpected]
    if name == "required":
        expected = _expected(_at(_known(spec, error), kind.property))
        return [
            {
                "loc": ".".join([*map(str, path), kind.property]),
                "message": f"is missing; expected {expected}",
                "expected": expected,
            }
        ]
    got = _got(path, error.instance)
    expected = _expected_of(name, kind)
    if expected is None:
        return [{"loc": place, "message": str(error.message)[:300], "got": got}]
    message = f"expected {expected}, got {got}"
    return [{"loc": place, "message": message, "expected": expected, "got": got}]


def _unknown(path: Sequence[Any], key: str, properties: Mapping[str, Any]) -> dict[str, str]:
    fault = {"loc": ".".join([*map(str, path), key]), "message": "is not an argument"}
    near = get_close_matches(key, list(properties), n=1, cutoff=0.5)
    if near:
        fault["message"] += f"; did you mean {near[0]!r}?"
        fault["nearest"] = near[0]
    return fault


def _known(spec: ToolSpec, error: Any) -> Mapping[str, Any]:
    """The properties of the object schema that the failed keyword stands in."""
    part: Any = spec.input_schema
    for step in list(error.schema_path)[:-1]:
        part = _at(part, step)
    properties = _at(part, "properties")
    return properties if isinstance(properties, dict) else {}


def _at(part: Any, step: Any) -> Any:
    if isinstance(part, dict):
        return part.get(step, {})
    return part[step] if isinstance(part, list) and isinstance(step, int) else {}


def _expected_of(name: str, kind: Any) -> str | None:
    """What a failed keyword asks for; None where the validator's own words are the best."""
    if name == "type":
        return " or ".join(kind.types)
    if name == "enum":
        return f"one of {_json(kind.options, _EXPECTED_CHARS)}"
    if name == "minimum":
        return f"at least {kind.limit}"
    if name == "maximum":
        return f"at most {kind.limit}"
    if name == "pattern":
        return f"text that matches {kind.pattern}"
    return None


def _expected(schema: Any) -> str:
    """A property's schema in a few words."""
    options = _at(schema, "enum")
    if options:
        return f"one of {_json(options, _EXPECTED_CHARS)}"
    kinds = _at(schema, "type") or "any value"
    return " or ".join(kinds) if isinstance(kinds, list) else str(kinds)


def _got(path: Sequence[Any], value: Any) -> str:
    """The value with its type, cut; not shown where the argument's name says that it is secret."""
    kind = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer",
            float: "number", type(None): "null"}.get(type(value), "value")  # fmt: skip
    if any(isinstance(part, str) and is_secret_field(part) for part in path):
        return kind
    return "null" if value is None else f"{kind} {_json(value, _GOT_CHARS)}"


def _json(value: Any, chars: int) -> str:
    text = orjson.dumps(value, default=str).decode()
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _takes(schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    properties: Mapping[str, Any] = schema.get("properties", {})
    return ", ".join(f"{p} (required)" if p in required else p for p in properties) or "nothing"
