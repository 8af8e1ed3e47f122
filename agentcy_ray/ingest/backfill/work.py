"""What every driver of a backfill works on, and what it has to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agentcy_ray.ingest.backfill.embedding import BlockEmbedder
from agentcy_ray.ingest.backfill.pace import Gauge
from agentcy_ray.ingest.backfill.reading import Reader
from agentcy_ray.ingest.backfill.records import Backfill
from agentcy_ray.ingest.backfill.rows import BackfillRows
from agentcy_ray.ingest.backfill.sink import Embedded, Sink

if TYPE_CHECKING:
    from agentcy_ray.retrieval.space import Space

Probe = Callable[[str], None]
"""Called at named points, with nothing to do in ordinary runs."""


@dataclass(frozen=True)
class Work:
    """One attempt at the blocks of one backfill."""

    rows: BackfillRows
    backfill: Backfill
    space: Space
    reader: Reader
    sink: Sink
    embedding: BlockEmbedder
    gauge: Gauge
    probe: Probe

    async def write(self, block: Embedded) -> bool:
        """Commit a block and count it; returns whether it is done."""
        nodes = block.wanted.cut.block.nodes
        chunks = block.chunks.num_rows + len(block.wanted.there)
        self.probe("embedded")
        rates = self.gauge.add(nodes, chunks, block.usage.tokens)
        whole = await self.sink.write(block, rates)
        self.gauge.tell(rates)
        self.probe("written")
        return whole


class Driver(Protocol):
    """Embeds and writes open blocks. Whoever calls it cuts it off when it has to stop."""

    async def run(self, work: Work) -> int:
        """Take every open block once; returns how many of them are done now.

        Raises:
            LeaseLostError: another worker has the backfill, or it was paused or cancelled.
            BackendError: a store or the model failed; the next attempt goes on.
        """
        ...
