"""A bounded sample of what people ask, by which two spaces can be compared.

Kept of a query is its text alone: not who asked it, in which realms, or what was answered. A text
in which something looks like a secret, an address or a number of somebody is not kept at all. No
route shows the sample; a process holds a handful of texts at most, and loses them when it dies.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from uuid import UUID

import structlog

from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.redaction import Redactor
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.postgres import Database

MAX_CHARS = 512
MAX_WAITING = 64
"""Texts of one organisation that wait to be written; those that come meanwhile are let go."""
FLUSH_SECS = 10.0

_PERSONAL = re.compile(r"\S@\S|\d[\d\s().-]{7,}\d")
_log = structlog.get_logger(__name__)

_KEEP = """
INSERT INTO rag_queries AS q (org_id, digest, text, asked)
SELECT $1, * FROM unnest($2::bytea[], $3::text[], $4::int[])
ON CONFLICT (org_id, digest) DO UPDATE
SET asked = q.asked + excluded.asked, last_at = clock_timestamp()
"""
_SHED = """
DELETE FROM rag_queries WHERE org_id = $1 AND digest IN (
  SELECT digest FROM rag_queries WHERE org_id = $1 ORDER BY last_at DESC, digest OFFSET $2)
"""
_READ = """
SELECT text FROM rag_queries WHERE org_id = $1 ORDER BY asked DESC, last_at DESC, digest LIMIT $2
"""


class QuerySample:
    """The sample of all organisations; one per process."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._keep = settings.embedding_query_sample
        self._redactor = Redactor()
        self._waiting: dict[UUID, Counter[str]] = {}
        self._flushing: asyncio.Task[None] | None = None

    def note(self, org_id: UUID, query: str) -> None:
        """Take a query into the sample; costs the caller no waiting."""
        if not self._keep:
            return
        text = " ".join(query[: MAX_CHARS * 2].split())
        if not self._harmless(text):
            return
        waiting = self._waiting.setdefault(org_id, Counter())
        if text in waiting or len(waiting) < MAX_WAITING:
            waiting[text] += 1
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_later(), name="query_sample")

    async def flush(self) -> None:
        """Write what waits.

        Raises:
            StoreUnavailableError: Postgres does not answer; what waited is let go.
        """
        waiting, self._waiting = self._waiting, {}
        for org_id, texts in waiting.items():
            digests = [sha256(text.encode()).digest() for text in texts]
            async with self._db.tenant(org_id) as connection:
                await connection.execute(_KEEP, org_id, digests, list(texts), list(texts.values()))
                await connection.execute(_SHED, org_id, self._keep)

    async def read(self, org_id: UUID, limit: int) -> Sequence[str]:
        """Up to ``limit`` texts, those asked most often first."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_READ, org_id, limit)
        return [row["text"] for row in rows]

    async def close(self) -> None:
        """Write what waits, as far as Postgres answers, and stop."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._flush()

    def _harmless(self, text: str) -> bool:
        return (
            0 < len(text) <= MAX_CHARS
            and not _PERSONAL.search(text)
            and self._redactor.text(text) == text
        )

    async def _flush_later(self) -> None:
        await asyncio.sleep(FLUSH_SECS)
        await self._flush()

    async def _flush(self) -> None:
        try:
            await self.flush()
        except AgentcyError as error:  # a sample may have holes; an answer must not wait for it
            _log.warning("query_sample_not_kept", problem=error.message)
