"""A stream counts against its user's limit from before its first effect until it has ended, and it
ends with the credential that opened it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from fastapi import Request

from agentcy_ray.api.permit import Allowed
from agentcy_ray.api.services import services_of
from agentcy_ray.api.sse import ENDING, HELD


async def hold_stream(request: Request, caller: Allowed) -> None:
    """Count a stream of the caller; it ends with the request, however that ends.

    Raises:
        RateLimitedError: ``quota_exceeded``: the caller holds as many as allowed.
    """
    access, state = services_of(request).access, request.scope["state"]
    held: list[Callable[[], None]] | None = state.get(HELD)
    if held is not None:
        held.append(await access.streams.take(caller.principal.user_id))
        # A login's token is renewed while the login lives; another credential ends with its time.
        expires_at = math.inf if caller.claims else state["caller"].expires_at
        state[ENDING] = partial(access.open_streams.add, caller.principal, expires_at)
