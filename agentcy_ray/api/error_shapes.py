"""The forms that an error takes: the house's own, OpenAI's and Anthropic's.

Clients of another vendor's API read errors in that vendor's form. Below ``/v1`` an error is written
so, with the house's ``code``, ``request_id`` and ``details`` beside what the form asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from pydantic import BaseModel

V1 = "/v1"
MESSAGES = f"{V1}/messages"
Dialect = Literal["house", "openai", "anthropic"]

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_FIELD = re.compile(r"[a-z0-9_]+")
_PROVIDERS_OWN = frozenset({400, 404, 413, 422, 429})
"""Statuses of a provider that say something about the request, so its caller gets them too."""
_OF_PROVIDERS = frozenset({"llm_error", "model_not_found", "embedder_refused"})
"""Codes of errors whose ``status`` is one that a provider answered."""


class VendorError(BaseModel):
    """What went wrong, with what a vendor's form asks for and what ours has."""

    type: str
    code: str
    message: str
    request_id: str
    details: dict[str, Any]


class OpenAiError(VendorError):
    """``param`` is the field of the body that is at fault, when one is."""

    param: str | None


class OpenAiErrorBody(BaseModel):
    """The body of every answer of status 400 or above below ``/v1``."""

    error: OpenAiError


class AnthropicErrorBody(BaseModel):
    """The same of ``/v1/messages``."""

    type: Literal["error"] = "error"
    error: VendorError
    request_id: str


@dataclass(frozen=True)
class Fault:
    """An error as the house knows it."""

    status: int
    code: str
    message: str
    request_id: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    transient: bool = False
    """Whether the same request may succeed when it is repeated."""


def dialect_of(path: str) -> Dialect:
    """Whose form the errors of a path have."""
    if path == MESSAGES or path.startswith(f"{MESSAGES}/"):
        return "anthropic"
    return "openai" if path == V1 or path.startswith(f"{V1}/") else "house"


def written(fault: Fault, dialect: Dialect) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of the answer."""
    base: dict[str, Any] = {
        "code": fault.code,
        "message": fault.message,
        "request_id": fault.request_id,
        "details": dict(fault.details),
    }
    if dialect == "house":
        return fault.status, {"error": base}, {}
    status = status_of(fault)
    headers = {"x-should-retry": "true" if fault.transient else "false"}
    if dialect == "openai":
        kind = _OPENAI_TYPES.get(status)
        base["type"] = kind or ("server_error" if status >= 500 else "invalid_request_error")
        base["param"] = _param(fault.details)
        return status, {"error": base}, headers
    kind = _ANTHROPIC_TYPES.get(status)
    base["type"] = kind or ("api_error" if status >= 500 else "invalid_request_error")
    body = {"type": "error", "error": base, "request_id": fault.request_id}
    return status, body, {**headers, "request-id": fault.request_id}


def status_of(fault: Fault) -> int:
    """The status below ``/v1``, where a request that is not acceptable is a bad one.

    What a provider said of the request is said again; that the provider itself failed stays 502.
    """
    said = fault.details.get("status")
    status = fault.status
    if fault.code in _OF_PROVIDERS and said in _PROVIDERS_OWN:
        status = int(said)
    return 400 if status == 422 else status


def _param(details: Mapping[str, Any]) -> str | None:
    """The field of the body that is at fault, when one is."""
    faults = details.get("errors")
    if not isinstance(faults, list) or not faults or not isinstance(faults[0], dict):
        return None
    place: Any = faults[0].get("loc")
    text = place if isinstance(place, str) else ".".join(str(part) for part in place or ())
    parts = text.split(".")
    parts = parts[1:] if parts[:1] == ["body"] else parts
    return ".".join(takewhile(_names_a_field, parts)) or None


def _names_a_field(part: str) -> bool:
    """Whether a part of a place is in the body; pydantic adds which type of several it tried."""
    return part != "str" and _FIELD.fullmatch(part) is not None
