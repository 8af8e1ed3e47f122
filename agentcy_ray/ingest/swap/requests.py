"""Asking for a swap, looking at it, calling it off, going back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import structlog
from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import ConflictError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.swap.giving_up import give_up
from agentcy_ray.ingest.swap.records import WORKING, Swap, SwapOptions
from agentcy_ray.ingest.swap.runner import progress_of, ring, swap_job
from agentcy_ray.ingest.swap.store import Swaps, under_way
from agentcy_ray.jobs.records import Job, Progress
from agentcy_ray.retrieval.embedders import scheme_of

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.core.tenancy import Principal
    from agentcy_ray.ingest.backfill.store import BackfillStore
    from agentcy_ray.ingest.swap.switch import Switch
    from agentcy_ray.jobs.queue import JobQueue
    from agentcy_ray.retrieval.spaces import Space, SpaceStore
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.postgres import Database

_log = structlog.get_logger(__name__)


class SwapState(BaseModel):
    """A swap with how far it is; ``progress`` while it works."""

    model_config = ConfigDict(frozen=True)

    swap: Swap
    progress: Progress | None = None

    @property
    def open(self) -> bool:
        """Whether something may still happen to it by itself."""
        return self.swap.status in WORKING


class SwapRequests:
    """What people ask of swaps."""

    def __init__(
        self,
        db: Database,
        queue: JobQueue,
        spaces: SpaceStore,
        backfills: BackfillStore,
        switch: Switch,
        bell: Bell,
        settings: Settings,
    ) -> None:
        self._db = db
        self._queue = queue
        self._spaces = spaces
        self._backfills = backfills
        self._switch = switch
        self._bell = bell
        self._settings = settings
        self._swaps = Swaps(db)

    async def start(self, principal: Principal, model: str, options: SwapOptions) -> SwapState:
        """Change the model of the caller's organisation, or go on with a swap to it that failed.

        Raises:
            ConflictError: ``state_conflict`` while one is under way.
            InvalidError: there is no such kind of model.
        """
        principal.require("embedding.manage")
        scheme_of(model, self._settings)
        org_id = principal.org_id
        latest = await self._swaps.latest(org_id)
        try:
            async with self._db.tenant(org_id) as connection:
                planned: Swap | None
                if latest is not None and latest.status == "failed" and latest.model == model:
                    await self._swaps.choose(connection, latest.id, options.model_dump(mode="json"))
                    planned = await self._swaps.move(connection, latest.id, "backfilling")
                    if planned is None:
                        raise under_way()
                else:
                    planned = await self._swaps.insert(
                        connection, org_id, model, options, principal.user_id
                    )
                job = await self._queue.store.insert(connection, swap_job(org_id, planned.id))
                planned = await self._swaps.carried_by(connection, planned.id, job.id)
        except asyncpg.UniqueViolationError as error:  # another was begun since the look
            raise under_way() from error
        await self._queue.announce(job)
        return SwapState(swap=planned, progress=job.progress)

    async def check(self, principal: Principal, swap_id: UUID) -> SwapState:
        """Take the figures of a swap that waits anew; it cuts over when they are good.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: ``state_conflict``, it does not wait.
        """
        principal.require("embedding.manage")
        org_id = principal.org_id
        async with self._db.tenant(org_id) as connection:
            job: Job | None = None
            moved = await self._swaps.move(connection, swap_id, "checking")
            if moved is not None:
                job = await self._queue.store.insert(connection, swap_job(org_id, swap_id))
                moved = await self._swaps.carried_by(connection, swap_id, job.id)
        if moved is None or job is None:
            swap = await self._swaps.get(org_id, swap_id)
            raise _conflict(swap, "checked again; only one that is ready can be")
        await self._queue.announce(job)
        return await self._state(moved)

    async def get(self, org_id: UUID, swap_id: UUID) -> SwapState:
        """One swap.

        Raises:
            NotFoundError: there is none of that id.
        """
        return await self._state(await self._swaps.get(org_id, swap_id))

    async def list(
        self, org_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> Sequence[Swap]:
        """Swaps of an organisation, newest first."""
        return await self._swaps.list(org_id, limit=limit, before=before)

    async def open_to(self, org_id: UUID, space_id: UUID) -> Swap | None:
        """The open swap that goes to a space."""
        async with self._db.tenant(org_id) as connection:
            return await self._swaps.open_to(connection, space_id)

    async def over(self, org_id: UUID, space_id: UUID) -> None:
        """End the swaps that left a space which is gone now."""
        async with self._db.tenant(org_id) as connection:
            await self._swaps.over(connection, space_id)

    async def cancel(self, principal: Principal, swap_id: UUID) -> SwapState:
        """Call a swap off before its cut-over; the space that it made is given up.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: ``state_conflict``, it was cut over or has ended.
        """
        principal.require("embedding.manage")
        org_id = principal.org_id
        error = {"code": "cancelled", "message": "the swap was cancelled", "details": {}}
        async with self._db.tenant(org_id) as connection:
            moved = await self._swaps.move(connection, swap_id, "cancelled", error=error)
        if moved is None:
            swap = await self._swaps.get(org_id, swap_id)
            if swap.status != "cancelled":
                raise _conflict(swap, "cancelled; `agentcy embed rollback` goes back after it")
            moved = swap
        job = await self._job(moved)
        if job is not None and job.open:
            await self._quietly_cancel(job)
        await give_up(self._spaces, self._backfills, moved)
        await ring(self._bell, moved, "cancelled")
        return await self._state(moved)

    async def rollback(self, principal: Principal, swap_id: UUID | None = None) -> Space:
        """Let the space answer again that a swap left; the newest one where none is named.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: ``state_conflict``, it was not cut over, or its grace is over.
        """
        principal.require("embedding.manage")
        org_id = principal.org_id
        if swap_id is not None:
            found = await self._swaps.get(org_id, swap_id)
        else:
            swaps = await self._swaps.list(org_id, limit=50)
            found = next((swap for swap in swaps if swap.status == "cut_over"), None)
        if found is None or found.status != "cut_over" or found.from_space is None:
            what = "there is no swap that was cut over"
            if found is not None:
                what = f"swap {encode('swp', found.id)} is {found.status}"
            raise ConflictError(
                f"{what}, so there is no space to go back to; `agentcy embed status` lists those "
                "there are",
                code="state_conflict",
            )
        return await self._switch.to(org_id, found.from_space, user_id=principal.user_id)

    async def _quietly_cancel(self, job: Job) -> None:
        try:
            await self._queue.cancel(job.org_id, job.id)
        except ConflictError as error:  # it ended by itself meanwhile, which is as well
            _log.info("swap_job_ended", job=encode("job", job.id), reason=error.message)

    async def _job(self, swap: Swap) -> Job | None:
        if swap.job_id is None:
            return None
        return await self._queue.store.get(swap.org_id, swap.job_id)

    async def _state(self, swap: Swap) -> SwapState:
        if swap.status == "backfilling" and swap.to_space is not None:  # its job sleeps meanwhile
            filling = await self._backfills.list(swap.org_id, space_id=swap.to_space, limit=1)
            if filling:
                return SwapState(swap=swap, progress=progress_of(filling[0]))
        job = await self._job(swap) if swap.status in WORKING else None
        return SwapState(swap=swap, progress=None if job is None else job.progress)


def _conflict(swap: Swap, verb: str) -> ConflictError:
    return ConflictError(
        f"swap {encode('swp', swap.id)} is {swap.status} and cannot be {verb}",
        code="state_conflict",
        status=swap.status,
    )
