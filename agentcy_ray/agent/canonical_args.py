"""The canonical form of a call's arguments, which binds approvals and effects to them."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from uuid import UUID

import rfc8785

from agentcy_ray.audit.canonical import quick
from agentcy_ray.core.errors import ToolArgumentsError

MAX_BYTES = 256 * 1024


def args_json(args: Mapping[str, Any]) -> bytes:
    """The RFC 8785 form of ``args``: equal for equal JSON values.

    Raises:
        ToolArgumentsError: they have no such form (a number beyond 2⁵³, NaN, broken text), or
            take more than 256 KiB.
    """
    try:
        canonical = quick(args) or rfc8785.dumps(dict(args))
    except rfc8785.CanonicalizationError as error:
        raise ToolArgumentsError(
            f"the arguments are not plain JSON: {error}; send large numbers as text"
        ) from error
    if len(canonical) > MAX_BYTES:
        raise ToolArgumentsError(
            f"the arguments take {len(canonical)} bytes, more than {MAX_BYTES}; send less at once"
        )
    return canonical


def args_sha256(args: Mapping[str, Any]) -> str:
    """SHA-256 of the RFC 8785 form of ``args``, hexadecimal.

    Raises:
        ToolArgumentsError: as ``args_json``.
    """
    return sha256(args_json(args)).hexdigest()


def idempotency_key(run_id: UUID, position: int, args_hash: str) -> str:
    """The key of a run's call: the same turn, place and arguments give the same key.

    ``position`` is turn × 1000 + index, so the key covers both.
    """
    return sha256(f"{run_id.hex}:{position}:{args_hash}".encode()).hexdigest()
