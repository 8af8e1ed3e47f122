"""The queue without Redis: workers ask Postgres, at once in this process and by polling else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.jobs.queue import RowQueue
from agentcy_ray.jobs.records import QueueName

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.postgres import Database

POLL_SECS = 0.5


class PostgresQueue(RowQueue):
    """Carries nothing: the claim itself finds what is ready."""

    def __init__(self, settings: Settings, db: Database, redis: Any = None) -> None:
        super().__init__(settings, db, redis)
        self._news = asyncio.Event()

    async def offer(self, job_id: UUID, queue: QueueName, delay_secs: float) -> None:
        """Wake the workers of this process; those of others look by themselves."""
        if delay_secs <= 0:
            self._news.set()

    async def wait(self, kinds: Sequence[str], timeout_secs: float) -> None:
        """Wait for news of this process, at most one polling interval."""
        try:
            await asyncio.wait_for(self._news.wait(), min(timeout_secs, POLL_SECS))
        except TimeoutError:
            return
        self._news.clear()
