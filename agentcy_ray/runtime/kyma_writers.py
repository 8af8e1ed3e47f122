"""Writer actors: they take Arrow batches from ingest actors and stream them into kyma.

An ingest actor then only reads packages; encoding and sending has cores and connections of its
own, on whichever node. A batch goes into the object store once and the actor reads it from there.
Keys are made from what a slice holds, so a batch that is handed to another actor, because the
first one died over it, finds what was stored already and goes on behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayError

from agentcy_ray.context.factory import open_kyma
from agentcy_ray.context.kyma.writer import Ingested
from agentcy_ray.core.errors import AgentcyError, StoreUnavailableError
from agentcy_ray.core.logs import set_up_logs
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.resolve import resolve_endpoints
from agentcy_ray.stores.shared_metrics import SharedMetrics

ATTEMPTS = 5
FIRST_WAIT_SECS = 1.0
"""Ray starts an actor anew within this; what the dead one had sent is committed by then, too."""


class KymaWriterActor:
    """Actor class. Opens its client at the first batch."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._opening: asyncio.Task[_Opened] | None = None

    async def ping(self) -> str:
        """The writer's name; answers while it is alive."""
        return self._name

    async def ingest(
        self, database: str, table: str, written: pa.Buffer, key_scope: str
    ) -> Ingested | AgentcyError:
        """Store a batch, which comes as an Arrow IPC stream; see ``KymaWriter.ingest``.

        An error of ours is returned, since Ray would wrap it.
        """
        batch = pa.ipc.open_stream(written).read_next_batch()
        try:
            ingest, _ = await self._client()
            return await ingest(database, table, batch, key_scope)
        except AgentcyError as error:
            return error

    async def _client(self) -> _Opened:
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(_open())
        return await asyncio.shield(self._opening)


_Ingest = Callable[[str, str, pa.RecordBatch, str], Awaitable[Ingested]]
_Opened = tuple[_Ingest, asyncio.Task[None]]
"""What stores a batch, and the task that hands this process's metrics in."""


async def _open() -> _Opened:
    settings = Settings.load()
    set_up_logs(settings)
    endpoints = await resolve_endpoints(settings)
    metrics = Metrics()
    client = open_kyma(settings, endpoints, metrics=metrics)
    redis = await open_redis(endpoints.redis_url, settings.redis_prefix)
    sharing = asyncio.create_task(SharedMetrics(redis, metrics).run(asyncio.Event()))

    async def ingest(database: str, table: str, batch: pa.RecordBatch, key_scope: str) -> Ingested:
        return await client.ingest(database, table, batch, key_scope=key_scope)

    return ingest, sharing


class KymaWriterPool:
    """A ``Sink`` over named writer actors; a batch goes to the one with the fewest rows."""

    def __init__(self, names: Sequence[str], first_wait_secs: float = FIRST_WAIT_SECS) -> None:
        self._names = tuple(names)
        self._busy = dict.fromkeys(names, 0)
        self._first_wait_secs = first_wait_secs

    async def ingest(
        self, database: str, table: str, batch: pa.RecordBatch, *, key_scope: str
    ) -> Ingested:
        """As ``KymaWriter.ingest``, in a writer actor.

        Raises:
            StoreUnavailableError: no writer actor stays alive; write the same batch again.
            Others as ``KymaWriter.ingest``.
        """
        shared: Any = await asyncio.to_thread(_share, batch)
        for attempt in range(ATTEMPTS):
            name = min(self._names, key=lambda n: self._busy[n])
            self._busy[name] += batch.num_rows + 1
            try:
                answer = await _ask(name, database, table, shared, key_scope)
            except (RayActorError, ValueError) as error:
                if attempt == ATTEMPTS - 1:
                    raise _away(name) from error
            except RayError as error:
                raise StoreUnavailableError(
                    f"kyma writer {name!r} failed: {getattr(error, 'cause', None) or error}",
                    store="ray",
                ) from error
            else:
                if isinstance(answer, AgentcyError):
                    raise answer
                return answer
            finally:
                self._busy[name] -= batch.num_rows + 1
            await asyncio.sleep(self._first_wait_secs * 2**attempt)
        raise AssertionError("unreachable")


def _share(batch: pa.RecordBatch) -> Any:
    """Put a batch into the object store: as IPC, which holds the rows of a slice and no others."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return ray.put(sink.getvalue())


async def _ask(name: str, *args: object) -> Ingested | AgentcyError:
    # Looking a name up blocks while the control store is away, so it does not do so here.
    actor: Any = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
    return await actor.ingest.remote(*args)


def _away(name: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"kyma writer {name!r} is away; Ray restarts it, see its logs when this stays", store="ray"
    )
