"""Lists by cursor: newest first, opaque and signed, stable while rows are inserted."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import Query
from pydantic import BaseModel

from agentcy_ray.core.errors import BadRequestError

T = TypeVar("T")
MAX_LIMIT = 200
MAX_SEQ = 2**53
"""Numbers beyond it are no seq: JSON does not carry them exactly."""


class Page(BaseModel, Generic[T]):
    """One page of a list; ``next_cursor`` null = the end."""

    items: list[T]
    next_cursor: str | None = None


Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items at most.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


class Cursors:
    """Signs what a page ended at, so that a client can neither read a meaning into it nor forge."""

    def __init__(self, secret: str, previous: str | None = None) -> None:
        """Sign with ``secret``; cursors of the ``previous`` one are good still."""
        self._keys = [
            sha256(b"cursor" + key.encode()).digest() for key in (secret, previous) if key
        ]

    def encode(self, position: Any) -> str:
        """A cursor for a JSON value."""
        body = orjson.dumps(position, default=str)
        return base64.urlsafe_b64encode(_sign(self._keys[0], body) + body).decode().rstrip("=")

    def decode(self, cursor: str | None) -> Any:
        """The position behind a cursor; None without one.

        Raises:
            BadRequestError: ``cursor_invalid``.
        """
        if cursor is None:
            return None
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            signature, body = raw[:12], raw[12:]
            if not any(hmac.compare_digest(signature, _sign(key, body)) for key in self._keys):
                raise ValueError(cursor)
            return orjson.loads(body)
        except ValueError:
            raise BadRequestError(
                "the cursor is not one of ours; begin without one", code="cursor_invalid"
            ) from None

    def page(self, rows: Sequence[T], limit: int, position: Callable[[T], Any]) -> dict[str, Any]:
        """A page of at most ``limit`` of ``rows`` (one more was fetched to see whether it ends).

        ``position`` maps the last row kept to the JSON value that the next page starts after.
        """
        kept = rows[:limit]
        more = len(rows) > limit
        return {"items": kept, "next_cursor": self.encode(position(kept[-1])) if more else None}


def _sign(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:12]
