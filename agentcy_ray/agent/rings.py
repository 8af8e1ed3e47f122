"""Ringing the readers of runs: what is written while a ring is on its way goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import structlog

from agentcy_ray.agent.follow import run_channel
from agentcy_ray.agent.run_writer import Stored
from agentcy_ray.core.clock import rfc3339
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.events import TERMINAL
from agentcy_ray.stores.bell import Bell

INLINE_BYTES = 8 * 1024
"""Events up to this size together travel with the ring; readers fetch larger ones."""
_log = structlog.get_logger(__name__)


class Rings:
    """Rings of one process, in the order of the events of each run."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._waiting: dict[UUID, list[Stored]] = {}
        self._unheard: set[UUID] = set()
        """Runs whose last ring nobody heard; who listens by now fetches what it hears of."""
        self._task: asyncio.Task[None] | None = None

    def add(self, run_id: UUID, stored: Sequence[Stored]) -> None:
        """Tell the run's readers of these events soon; never waits and never fails."""
        if not stored:
            return
        self._waiting.setdefault(run_id, []).extend(stored)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="rings")

    async def _run(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            rings = [
                (run_channel(run_id), _payload(all_, inline=run_id not in self._unheard))
                for run_id, all_ in waiting.items()
            ]
            try:
                heard = await self._bell.ring_all(rings)
            except AgentcyError as error:  # a ring is a hint; readers poll, and the events stand
                _log.warning("ring_refused", reason=error.message)
                continue
            for run_id, count in zip(waiting, heard or (), strict=False):
                if count or waiting[run_id][-1].type in TERMINAL:
                    self._unheard.discard(run_id)
                else:
                    self._unheard.add(run_id)


def _payload(stored: Sequence[Stored], *, inline: bool) -> dict[str, Any]:
    """``{"seq": last}``, and the events themselves where they are small and somebody listens."""
    payload: dict[str, Any] = {"seq": stored[-1].seq}
    if inline and sum(len(item.text) for item in stored) <= INLINE_BYTES:
        payload["events"] = [
            {
                "seq": item.seq,
                "type": item.type.value,
                "data": orjson.Fragment(item.text),
                "at": rfc3339(item.at),
            }
            for item in stored
        ]
    return payload
