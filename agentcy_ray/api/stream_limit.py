"""A stream counts against its user's limit from before its first effect until it has ended."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request

from agentcy_ray.api.permit import Allowed
from agentcy_ray.api.services import services_of
from agentcy_ray.api.sse import HELD


async def hold_stream(request: Request, caller: Allowed) -> None:
    """Count a stream of the caller; it ends with the request, however that ends.

    Raises:
        RateLimitedError: ``quota_exceeded``: the caller holds as many as allowed.
    """
    held: list[Callable[[], None]] | None = request.scope["state"].get(HELD)
    if held is not None:
        held.append(await services_of(request).access.streams.take(caller.principal.user_id))
