"""Reading a ``text/event-stream`` (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True)
class ServerEvent:
    """One event of a stream."""

    id: int | None
    type: str
    data: dict[str, Any]


async def parse_events(lines: AsyncIterator[str]) -> AsyncIterator[ServerEvent]:
    """The events in the lines of a stream, pings left out."""
    event_id: int | None = None
    name, data = "message", ""
    async for line in lines:
        if not line:
            if data and name != "ping":
                yield ServerEvent(event_id, name, orjson.loads(data))
            event_id, name, data = None, "message", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            event_id = int(value)
        elif field == "event":
            name = value
        elif field == "data":
            data += value
