"""What a setting may be made of: the types of fields, and how a field is declared."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr


def _comma_list(value: Any) -> Any:
    return (
        tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, str)
        else value
    )


def _blank_is_unset(value: Any) -> Any:
    return None if value == "" else value


def _are_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text!r} is no address or network; write 10.0.0.0/8") from None
    return value


CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
Networks = Annotated[CommaList, AfterValidator(_are_networks)]
Secret = Annotated[SecretStr | None, BeforeValidator(_blank_is_unset)]
OptionalText = Annotated[str | None, BeforeValidator(_blank_is_unset)]


def setting(default: Any, meaning: str, **limits: Any) -> Any:
    """A field with its default, its meaning in a few words, and pydantic's limits."""
    return Field(default=default, description=meaning, **limits)
