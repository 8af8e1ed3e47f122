"""Group commit: writes of one organisation share transactions.

A write goes at once when nothing is in flight for its organisation, and else joins the next
transaction with whatever came meanwhile; so latency is one commit and throughput is many writes a
commit. Each caller hears of its own write when that is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import UUID

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

WriteT = TypeVar("WriteT")
AnswerT = TypeVar("AnswerT")
BATCH = 512
"""Writes a commit at most."""


class GroupCommit(Generic[WriteT, AnswerT]):
    """One queue an organisation, and one writer while there is something in it.

    Args:
        db: where the rows are.
        put: writes a batch in a transaction; answers each write, with an error where it is refused.
        apart: writes for which it gives the same do not go in one transaction.
    """

    def __init__(
        self,
        db: Database,
        put: Callable[
            [Connection, UUID, Sequence[WriteT]], Awaitable[Sequence[AnswerT | Exception]]
        ],
        apart: Callable[[WriteT], Hashable] | None = None,
    ) -> None:
        self._db = db
        self._put = put
        self._apart = apart
        self._waiting: dict[UUID, list[tuple[WriteT, asyncio.Future[AnswerT]]]] = {}
        self._writers: dict[UUID, asyncio.Task[None]] = {}

    def hand_in(self, org_id: UUID, write: WriteT) -> asyncio.Future[AnswerT]:
        """Queue a write, behind those that were handed in before it.

        The future is done once the write is durable, or holds what went wrong: what ``put``
        answered for it, or ``StoreUnavailableError`` when it is not known to be durable.
        """
        done: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(org_id, []).append((write, done))
        if org_id not in self._writers:
            task = asyncio.create_task(self._drain(org_id), name="group-commit")
            self._writers[org_id] = task
        return done

    async def _drain(self, org_id: UUID) -> None:
        batch: list[tuple[WriteT, asyncio.Future[AnswerT]]] = []
        try:
            await asyncio.sleep(0)  # whoever else is ready to write now goes along
            while waiting := self._waiting.pop(org_id, None):
                batch, rest = self._next(waiting)
                if rest:
                    self._waiting[org_id] = rest
                await self._settle(org_id, batch)
        finally:
            del self._writers[org_id]
            for _, done in (*batch, *self._waiting.pop(org_id, [])):
                done.cancel()  # when the process ends nobody shall wait for ever

    async def _settle(
        self, org_id: UUID, batch: Sequence[tuple[WriteT, asyncio.Future[AnswerT]]]
    ) -> None:
        try:
            async with self._db.tenant(org_id) as connection:
                answers = await self._put(connection, org_id, [write for write, _ in batch])
        except StoreUnavailableError as error:
            answers = [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - the waiting caller gets it
            if len(batch) > 1:
                for one in batch:  # so that a write which cannot be kept fails alone
                    await self._settle(org_id, [one])
                return
            answers = [error]
        for (_, done), answer in zip(batch, answers, strict=True):
            if done.done():  # its caller was cancelled; what was written stands
                continue
            if isinstance(answer, Exception):
                done.set_exception(answer)
                done.exception()  # a caller that has gone never looks
            else:
                done.set_result(answer)

    def _next(
        self, waiting: list[tuple[WriteT, asyncio.Future[AnswerT]]]
    ) -> tuple[
        list[tuple[WriteT, asyncio.Future[AnswerT]]], list[tuple[WriteT, asyncio.Future[AnswerT]]]
    ]:
        """The next batch, and what waits for another one."""
        if self._apart is None:
            return waiting[:BATCH], waiting[BATCH:]
        batch: list[tuple[WriteT, asyncio.Future[AnswerT]]] = []
        rest: list[tuple[WriteT, asyncio.Future[AnswerT]]] = []
        seen: set[Hashable] = set()
        for one in waiting:
            mark = self._apart(one[0])
            if mark in seen or len(batch) == BATCH:
                rest.append(one)
            else:
                batch.append(one)
            seen.add(mark)
        return batch, rest
