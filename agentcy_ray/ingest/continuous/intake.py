"""What is posted to a pipeline: who may, what it says, and that it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import BadRequestError, NotFoundError
from agentcy_ray.identity.signatures import Signatures
from agentcy_ray.identity.throttle import Throttle
from agentcy_ray.ingest.continuous import otlp
from agentcy_ray.ingest.continuous.body import media_type, records_of, unpacked
from agentcy_ray.ingest.continuous.flush import Flusher
from agentcy_ray.ingest.continuous.ledger import Answer, Ledger, Taken
from agentcy_ray.ingest.continuous.mapping import RowMaker
from agentcy_ray.ingest.continuous.records import Pipeline
from agentcy_ray.ingest.continuous.store import PipelineStore
from agentcy_ray.ingest.continuous.taking import Numbered, take
from agentcy_ray.ingest.continuous.tokens import Ticket, Tokens

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.jobs.queue import JobQueue
    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database
    from agentcy_ray.stores.redis import RedisStore
    from agentcy_ray.stores.vault import Vault

REQUESTS_A_SECOND = 100
KEY_CHARS = 128


class Intake:
    """The door of continuous pipelines; its methods raise before anything is kept."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        redis: RedisStore,
        objects: ObjectStore,
        queue: JobQueue,
        vault: Vault,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.pipelines = PipelineStore(db)
        self.tokens = Tokens(db, vault, clock)
        self.limit_bytes = settings.pipeline_max_body_bytes
        self._limit = Throttle(
            redis, "ingest", REQUESTS_A_SECOND * 60, clock, burst=REQUESTS_A_SECOND
        )
        self._signatures = Signatures(redis, clock)
        self._ledger = Ledger(db, queue, clock)
        self._flusher = Flusher(objects, self._ledger)
        self._clock = clock

    async def enter(self, token: str) -> Ticket:
        """The pipeline behind a token, within the token's rate.

        Raises:
            UnauthenticatedError: ``token_invalid``.
            NotFoundError: the pipeline is switched off.
            RateLimitedError: more than 100 requests a second.
        """
        ticket = await self.tokens.ticket(token)
        await self._limit.check(ticket.token_id.hex)
        if not ticket.pipeline.enabled:
            raise NotFoundError(f"pipeline {ticket.pipeline.name!r} is disabled; enable it first")
        return ticket

    async def post(self, ticket: Ticket, headers: Mapping[str, str], body: bytes) -> Answer:
        """Take the records of one request.

        Args:
            ticket: of ``enter``.
            headers: of the request, names in lower case.
            body: as it was sent.

        Returns:
            The answer: 200 when any was accepted, 422 when none.

        Raises:
            UnauthenticatedError: ``signature_invalid``.
            TooLargeError, MediaTypeError, BadRequestError: the body cannot be read.
            NotFoundError, StorageFullError, StoreUnavailableError: as ``Flusher.add``.
        """
        pipeline = ticket.pipeline
        if pipeline.kind != "webhook":
            raise NotFoundError(f"pipeline {pipeline.name!r} takes OTLP; post to its OTLP routes")
        signature = self._signed(ticket, headers, body)
        kind = media_type(headers.get("content-type", ""))
        key = _replay_key(headers)
        if key is not None:
            known = await self._ledger.replay(pipeline, key)
            if known is not None:
                return known
        encoding = headers.get("content-encoding", "")

        def read() -> tuple[Taken, pa.Table | None]:
            return self._taken(
                pipeline, records_of(unpacked(body, encoding, self.limit_bytes), kind), key
            )

        async with self._signatures.once(ticket.token_id.hex, *signature):
            taken, rows = await asyncio.to_thread(read)
            return await self._flusher.add(pipeline, taken, rows)

    async def export(
        self, ticket: Ticket, signal: otlp.Signal, headers: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        """Take one OTLP export; returns the body of its answer, ``partialSuccess`` where due.

        Raises:
            As ``post``.
        """
        pipeline = ticket.pipeline
        if pipeline.kind != "otlp":
            raise NotFoundError(f"pipeline {pipeline.name!r} takes no OTLP; make one of kind otlp")
        signature = self._signed(ticket, headers, body)
        otlp.check_media_type(headers.get("content-type", ""))
        encoding = headers.get("content-encoding", "")

        def read() -> tuple[Taken, pa.Table | None]:
            records = otlp.records_of(signal, unpacked(body, encoding, self.limit_bytes))
            return self._taken(pipeline, records, None)

        async with self._signatures.once(ticket.token_id.hex, *signature):
            taken, rows = await asyncio.to_thread(read)
            if rows is not None or taken.rejected:
                await self._flusher.add(pipeline, taken, rows)
        reasons = [str(error["reason"]) for error in taken.errors]
        return otlp.answer(signal, taken.rejected, reasons)

    async def close(self) -> None:
        """Write what waits."""
        await self._flusher.close()

    def _signed(
        self, ticket: Ticket, headers: Mapping[str, str], body: bytes
    ) -> tuple[str | None, str | None]:
        """Signature and time of a request that is signed as it must be; nothing, where none was.

        Raises:
            UnauthenticatedError: ``signature_invalid``.
        """
        signature = headers.get("x-agentcy-signature")
        timestamp = headers.get("x-agentcy-timestamp")
        secret = self.tokens.secret_of(ticket, signature)
        if secret is None or signature is None:
            return None, None
        self._signatures.verify(secret, body, signature, timestamp)
        return signature, timestamp

    def _taken(
        self, pipeline: Pipeline, records: Numbered, key: str | None
    ) -> tuple[Taken, pa.Table | None]:
        maker = RowMaker(
            pipeline.target_table, pipeline.mapping, realm=pipeline.realm,
            pipeline_id=pipeline.id, clock=self._clock,
        )  # fmt: skip
        return take(maker, records, key)


def _replay_key(headers: Mapping[str, str]) -> str | None:
    key = headers.get("x-idempotency-key")
    if key is not None and not (0 < len(key) <= KEY_CHARS and key.isascii() and key.isprintable()):
        raise BadRequestError(
            f"X-Idempotency-Key must be 1 to {KEY_CHARS} visible ASCII characters"
        )
    return key
