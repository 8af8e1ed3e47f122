"""What tools' texts and questions mean, as vectors; nobody waits long for them.

A text is embedded once for all processes: its vector lies in Postgres under the model's signature
and the text's hash, so a new version of a connector costs only the texts that changed. A search
that would have to wait for the model goes on by letters alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
import structlog
from numpy.typing import NDArray

from agentcy_ray.agent.tool_index import Rows, Scores
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.retrieval.embedder import Embedder, Matrix, matrix_of
from agentcy_ray.stores.postgres import Database

WAIT_SECS = 0.25
"""How long a search waits for the model, in all."""
REST_SECS = 30.0
"""After the model failed or was late it is not waited for during this time, or until it answers."""
QUESTIONS = 1024
"""Questions whose vectors are remembered, the last used ones."""
BLOCK = 256
FEW = 64
"""Texts without a vector for which a search waits; more are embedded behind its back."""
_log = structlog.get_logger(__name__)

_READ = """
SELECT text_sha256, vector FROM tool_vectors WHERE signature = $1 AND text_sha256 = ANY ($2)
"""
_USED = """
UPDATE tool_vectors SET used_at = clock_timestamp()
WHERE signature = $1 AND text_sha256 = ANY ($2) AND used_at < clock_timestamp() - interval '1 day'
"""
_KEEP = """
INSERT INTO tool_vectors (signature, text_sha256, vector)
SELECT $1, * FROM unnest($2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING
"""
_PRUNE = "DELETE FROM tool_vectors WHERE used_at < clock_timestamp() - interval '90 days'"


class _Table:
    """Vectors by row of the letter index; grows by doubling."""

    def __init__(self) -> None:
        self.vectors: Matrix = np.empty((0, 0), np.float32)
        self.known: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def put(self, rows: Sequence[int], vectors: Matrix) -> None:
        size = max(rows) + 1
        if size > len(self.vectors):
            size = max(size, 2 * len(self.vectors), 256)
            grown = np.zeros((size, vectors.shape[1]), np.float32)
            grown[: len(self.vectors)] = self.vectors if len(self.vectors) else 0
            known = np.zeros(size, np.bool_)
            known[: len(self.known)] = self.known
            self.vectors, self.known = grown, known
        self.vectors[rows] = vectors
        self.known[rows] = True

    def products(self, asked: Matrix, rows: Rows) -> Scores:
        """Dot products; in one thread, since BLAS's own wait for each other on busy cores."""
        # Reading every row costs less than copying more than half of them first.
        if 2 * len(rows) < len(self.vectors):
            return np.einsum("ij,j->i", self.vectors[rows], asked)
        found: Scores = np.einsum("ij,j->i", self.vectors, asked)[rows]
        return found

    def missing(self, rows: Rows) -> Rows:
        inside = rows < len(self.known)
        lacking = ~inside
        lacking[inside] = ~self.known[rows[inside]]
        return rows[lacking]


class ToolVectors:
    """One per process, over the embedder of the platform."""

    def __init__(self, embedder: Embedder, db: Database | None = None) -> None:
        """``db`` is where other processes look; None keeps vectors to this one."""
        self._embedder = embedder
        self._db = db
        self._table = _Table()
        self._questions: OrderedDict[str, Matrix] = OrderedDict()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._filling: asyncio.Task[None] | None = None
        self._rest_until = 0.0

    async def cosine(self, question: str, rows: Rows, texts: Sequence[str]) -> Scores | None:
        """How near the texts of ``rows`` are to ``question``, in 0..1; None when not known in time.

        Args:
            question: the text to compare with.
            rows: of the texts.
            texts: every text of the index, by row.
        """
        table = self._table
        missing = table.missing(rows)
        resting = time.monotonic() < self._rest_until
        if len(missing) and self._filling is None and not resting:
            self._fill({row: texts[row] for row in map(int, missing)})
        if len(missing) > FEW or (resting and question not in self._questions):
            return None
        awaited = [task for task in (self._filling if len(missing) else None, self._ask(question))
                   if task is not None]  # fmt: skip
        if awaited:
            _, late = await asyncio.wait(awaited, timeout=WAIT_SECS)
            if late:
                self._rest_until = time.monotonic() + REST_SECS
        asked = self._questions.get(question)
        if asked is None or len(table.missing(rows)):
            return None
        return np.clip(table.products(asked, rows), 0.0, 1.0)

    def forget(self) -> None:
        """Begin with another index; what is being embedded for the former one is let go."""
        self._table = _Table()

    async def settled(self) -> None:
        """Return once nothing is being embedded."""
        if tasks := self._tasks():
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Stop embedding."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*self._asking.values(), *([self._filling] if self._filling else [])]

    def _ask(self, question: str) -> asyncio.Task[None] | None:
        """The task that embeds ``question``; None when its vector is known."""
        if question in self._questions:
            self._questions.move_to_end(question)
            return None
        task = self._asking.get(question)
        if task is None:
            task = self._asking[question] = asyncio.create_task(self._embed_question(question))
            task.add_done_callback(lambda _: self._asking.pop(question, None))
        return task

    async def _embed_question(self, question: str) -> None:
        try:
            vectors = matrix_of(await self._embedder.embed([question]))
        except AgentcyError as error:
            self._failed(error)
            return
        self._rest_until = 0.0
        self._questions[question] = vectors[0]
        if len(self._questions) > QUESTIONS:
            self._questions.popitem(last=False)

    def _fill(self, texts: Mapping[int, str]) -> None:
        def done(_: asyncio.Task[None]) -> None:
            self._filling = None

        self._filling = asyncio.create_task(self._fill_table(self._table, texts))
        self._filling.add_done_callback(done)

    async def _fill_table(self, table: _Table, texts: Mapping[int, str]) -> None:
        try:
            await self._embedder.embed([])  # a pool knows its model once one of it has answered
            signature = self._embedder.info.signature
            rows = list(texts)
            for start in range(0, len(rows), BLOCK):
                block = rows[start : start + BLOCK]
                table.put(block, await self._vectors(signature, [texts[row] for row in block]))
            self._rest_until = 0.0
        except AgentcyError as error:
            self._failed(error)

    async def _vectors(self, signature: str, texts: Sequence[str]) -> Matrix:
        """Vectors of ``texts``: those that any process has embedded before, and the others anew."""
        keys = [sha256(text.encode()).digest() for text in texts]
        known = await self._stored(signature, keys)
        lacking = [i for i, key in enumerate(keys) if key not in known]
        if lacking:
            fresh = matrix_of(await self._embedder.embed([texts[i] for i in lacking]))
            made = {keys[i]: vector for i, vector in zip(lacking, fresh, strict=True)}
            await self._keep(signature, made)
            known |= made
        return np.stack([known[key] for key in keys])

    async def _stored(self, signature: str, keys: Sequence[bytes]) -> dict[bytes, Matrix]:
        if self._db is None:
            return {}
        async with self._db.system() as connection:
            rows = await connection.fetch(_READ, signature, keys)
            await connection.execute(_USED, signature, keys)
        return {row["text_sha256"]: np.frombuffer(row["vector"], "<f4") for row in rows}

    async def _keep(self, signature: str, made: Mapping[bytes, Matrix]) -> None:
        if self._db is None:
            return
        packed = [np.asarray(vector, "<f4").tobytes() for vector in made.values()]
        async with self._db.system() as connection:
            await connection.execute(_KEEP, signature, list(made), packed)
            await connection.execute(_PRUNE)

    def _failed(self, error: AgentcyError) -> None:
        self._rest_until = time.monotonic() + REST_SECS
        _log.warning("tools_found_by_letters_alone", problem=error.message, secs=REST_SECS)
