"""What every connector config has in common: strict models, typed faults, and the file roots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentcy_ray.connectors.limits import SourceLimits
from agentcy_ray.core.errors import SourceConfigError

FaultKind = Literal["credentials", "scope", "unreachable", "config", "rate_limited"]
"""Kinds of source fault (product specification, §16)."""


class ConnectorConfig(BaseModel):
    """Base of all config models: frozen, closed, and silent about the values it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    limits: SourceLimits | None = Field(
        default=None,
        description="how hard tools may use this source; unset: as the connector declares",
    )


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def fault(kind: FaultKind, message: str, *, loc: str | None = None) -> SourceConfigError:
    """A typed source fault; ``loc`` is the config field that it is about, in dotted form."""
    errors = [] if loc is None else [{"loc": loc, "message": message}]
    return SourceConfigError(message, kind=kind, errors=errors)


def read_config(model: type[ConfigT], config: Mapping[str, Any]) -> ConfigT:
    """``config`` as an instance of ``model``.

    Raises:
        SourceConfigError: kind ``config``; ``details["errors"]`` lists every fault as
            ``{loc, message}`` with ``loc`` in dotted form. Values are never quoted: one may be a
            secret.
    """
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:
        errors = [
            {"loc": ".".join(map(str, item["loc"])), "message": _message(model, item)}
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    lines = "; ".join(f"{item['loc'] or 'config'}: {item['message']}" for item in errors)
    raise SourceConfigError(f"the config is not valid: {lines}", kind="config", errors=errors)


def _message(model: type[BaseModel], item: Any) -> str:
    if item["type"] != "extra_forbidden":
        return str(item["msg"]).removeprefix("Value error, ")
    name = str(item["loc"][-1])
    schema = model.model_json_schema()
    known = sorted(schema["properties"] if len(item["loc"]) == 1 else _nested_names(schema))
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(known)}"
    return f"unknown field; {hint}"


def _nested_names(schema: Mapping[str, Any]) -> set[str]:
    """Field names of all models inside a schema; enough to suggest the one that was meant."""
    parts = cast("Mapping[str, Any]", schema.get("$defs", {})).values()
    return {name for part in parts for name in part.get("properties", {})}


def is_secret_schema(schema: Mapping[str, Any]) -> bool:
    """Whether a property of a config's JSON Schema is a secret (a ``SecretStr`` field)."""
    options = [schema, *schema.get("anyOf", [])]
    return any(option.get("writeOnly") for option in options)


def file_within(path: str, roots: Sequence[Path], *, loc: str) -> Path:
    """``path`` with symlinks resolved, when it lies under one of ``roots``.

    A relative path is taken from the first root that has it. Call this again right before opening
    the file: a symlink may have changed since the config was read.

    Raises:
        SourceConfigError: kind ``config``; the path leaves every root, or there is none.
    """
    if not roots:
        raise fault(
            "config",
            "this server lets no source read its files; set SOURCE_FILE_ROOTS to the folders"
            " that sources may name",
            loc=loc,
        )
    if "\x00" in path:
        raise fault("config", "a path cannot hold a NUL character", loc=loc)
    for candidate in _candidates(path, roots):
        if any(candidate.is_relative_to(_resolved(root)) for root in roots):
            return candidate
    allowed = ", ".join(str(root) for root in roots)
    raise fault(
        "config",
        f"the path {path!r} is outside of the folders that sources may read ({allowed});"
        " move the file there or add its folder to SOURCE_FILE_ROOTS",
        loc=loc,
    )


def _candidates(path: str, roots: Sequence[Path]) -> Iterator[Path]:
    if Path(path).is_absolute():
        yield _resolved(Path(path))
        return
    found = [_resolved(root / path) for root in roots]
    yield from sorted(found, key=lambda candidate: not candidate.exists())


def _resolved(path: Path) -> Path:
    """Resolve symlinks; a loop of them counts as the path itself, which then cannot be opened."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()
