"""Secrets inside a config: taken out before it is stored, shown as ``***``, put back to be used.

A secret is what its config model types as ``SecretStr``. Secrets are addressed by JSON pointer
(RFC 6901), so they go back exactly where they came from, at any depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel, SecretStr
from pydantic_core import to_jsonable_python

from agentcy_ray.connectors.config import fault

MASK = "***"
"""What a secret reads as; sent back, it keeps the value that is stored."""

Secrets = dict[str, str]
"""JSON pointer → secret."""


def take_secrets(config: BaseModel) -> tuple[dict[str, Any], Secrets]:
    """A validated config as JSON with masked secrets, and the secrets.

    Fields that were not given stay out, so that a default may change with the connector.

    Raises:
        SourceConfigError: kind ``config``; a secret is the mask itself and nothing was kept.
    """
    secrets: Secrets = {}
    masked = cast("dict[str, Any]", _masked(config, "", secrets))
    for pointer, value in secrets.items():
        if value == MASK:
            raise fault(
                "config",
                f"{MASK} keeps a stored secret, and none is stored here; send the secret itself",
                loc=pointer.strip("/").replace("/", "."),
            )
    return masked, secrets


def put_secrets(config: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """``config`` with the secrets in place of the masks that stand for them."""
    return cast("dict[str, Any]", _restored(dict(config), "", secrets))


def secret_values(config: BaseModel) -> tuple[str, ...]:
    """Every secret of a config, longest first: what must appear in no result and no message."""
    secrets: Secrets = {}
    _masked(config, "", secrets)
    values = {value for value in secrets.values() if value}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def _masked(value: Any, pointer: str, secrets: Secrets) -> Any:
    if isinstance(value, SecretStr):
        secrets[pointer] = value.get_secret_value()
        return MASK
    if isinstance(value, BaseModel):
        fields = [name for name in type(value).model_fields if name in value.model_fields_set]
        given = {name: getattr(value, name) for name in fields}
        return {name: _masked(item, f"{pointer}/{name}", secrets) for name, item in given.items()}
    if isinstance(value, list | tuple | Mapping):
        items = {key: _masked(item, path, secrets) for key, path, item in _items(value, pointer)}
        return items if isinstance(value, Mapping) else list(items.values())
    return to_jsonable_python(value)


def _restored(value: Any, pointer: str, secrets: Mapping[str, str]) -> Any:
    if value == MASK:
        return secrets.get(pointer, MASK)
    if isinstance(value, list | tuple | Mapping):
        items = {key: _restored(item, path, secrets) for key, path, item in _items(value, pointer)}
        return items if isinstance(value, Mapping) else list(items.values())
    return value


def _items(value: Any, pointer: str) -> Iterator[tuple[Any, str, Any]]:
    """Key, pointer and item of every item of a mapping or list."""
    pairs = cast("Any", value).items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in pairs:
        yield key, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}", item
