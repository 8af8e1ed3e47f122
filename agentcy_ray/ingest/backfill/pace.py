"""How fast a backfill may go, how fast it goes, and how long the rest will take."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentcy_ray.ingest.backfill.records import Backfill, BackfillOptions
from agentcy_ray.ingest.backfill.rows import Rates
from agentcy_ray.ingest.progress import Beats
from agentcy_ray.jobs.records import Progress

WINDOW_SECS = 60.0
"""Rates are those of the last minute, so that a pause or a slow start does not stay in them."""
LONGEST_REST_SECS = 300.0
"""A call that hung for long does not make a lane rest for hours."""


@dataclass
class Pace:
    """Holds the rate cap and the share, which are of all lanes together."""

    options: BackfillOptions
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _free_at: float = 0.0
    """When the next group may start."""

    async def admit(self, chunks: int, tokens: int) -> None:
        """Wait until a group of texts fits the rate cap.

        A group starts when those before it have had their time at the cap, so that no burst
        follows a rest.
        """
        cost = max(
            chunks / (self.options.max_chunks_per_s or float("inf")),
            tokens / (self.options.max_tokens_per_s or float("inf")),
        )
        now = self.now()
        start = max(now, self._free_at)
        self._free_at = start + cost
        if start > now:
            await self.sleep(start - now)

    async def rest(self, busy_secs: float) -> None:
        """Leave the model to others for the part of the time that is not the backfill's."""
        share = self.options.share
        if share < 1.0:
            await self.sleep(min(LONGEST_REST_SECS, busy_secs * (1.0 - share) / share))


@dataclass
class Gauge:
    """Counts what an attempt has written, and says so."""

    beat: Beats
    nodes: int
    """Of the whole backfill."""
    nodes_done: int
    chunks: int
    _moments: deque[tuple[float, int, int, int]] = field(
        default_factory=lambda: deque[tuple[float, int, int, int]]()
    )
    _nodes: int = 0
    _tokens: int = 0
    _chunks: int = 0

    @classmethod
    def of(cls, backfill: Backfill, beat: Beats) -> Gauge:
        """A gauge that goes on where the backfill is."""
        gauge = cls(beat, backfill.nodes, backfill.nodes_done, backfill.chunks)
        gauge._moments.append((time.monotonic(), 0, 0, 0))
        return gauge

    def add(self, nodes: int, chunks: int, tokens: int) -> Rates:
        """Count a block that is about to be written; returns the rates with it."""
        self._nodes += nodes
        self._chunks += chunks
        self._tokens += tokens
        now = time.monotonic()
        self._moments.append((now, self._nodes, self._chunks, self._tokens))
        while len(self._moments) > 2 and now - self._moments[0][0] > WINDOW_SECS:
            self._moments.popleft()
        then, nodes_then, chunks_then, tokens_then = self._moments[0]
        secs = max(1e-3, now - then)
        rate = (self._nodes - nodes_then) / secs
        left = max(0, self.nodes - self.nodes_done - self._nodes)
        return Rates(
            round((self._chunks - chunks_then) / secs, 1),
            round((self._tokens - tokens_then) / secs, 1),
            round(left / rate, 1) if rate else None,
        )

    def tell(self, rates: Rates) -> None:
        """Show the progress; the job's row and event follow at most once a second."""
        done = self.chunks + self._chunks
        nodes = self.nodes_done + self._nodes
        total = max(done, round(done * self.nodes / nodes)) if nodes else None
        self.beat.progress(
            Progress(
                done=done, total=total, unit="chunks", rate=rates.chunks_per_s,
                eta_secs=rates.eta_secs,
                note=f"embedding; {rates.tokens_per_s or 0:,.0f} tokens/s",
            )
        )  # fmt: skip

    def note(self, note: str) -> None:
        """Say what else is being done."""
        self.beat.progress(Progress(done=self.chunks + self._chunks, unit="chunks", note=note))
