"""A queue as a third party would write it: two methods over an in-process list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from agentcy_ray.jobs.queue import RowQueue
from agentcy_ray.jobs.records import QueueName


class ListQueue(RowQueue):
    """Carries ids in memory; what it forgets the reconciler brings back."""

    _ids: asyncio.Queue[UUID] | None = None

    def _carried(self) -> asyncio.Queue[UUID]:
        if self._ids is None:
            self._ids = asyncio.Queue()
        return self._ids

    async def offer(self, job_id: UUID, queue: QueueName, delay_secs: float) -> None:
        if delay_secs <= 0:
            self._carried().put_nowait(job_id)

    async def wait(self, kinds: Sequence[str], timeout_secs: float) -> None:
        try:
            await asyncio.wait_for(self._carried().get(), min(timeout_secs, 0.2))
        except TimeoutError:
            return
