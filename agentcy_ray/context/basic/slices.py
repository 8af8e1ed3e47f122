"""Reading more than one query may: by ranges of nodes' ids.

A server stops a query at its time limit, also one whose rows are being read all the while. Ids are
hashes, so ranges of equal width hold about as many nodes each. The range stands alone behind its
``MATCH`` and every other condition behind a ``WITH``: only so does the embedded server find it by
its index, and else it looks at every node of the database once per range. Edges, whose ids it finds
by no index, are read from the nodes at which they start, unless their type has few.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from neo4j import Record

from agentcy_ray.context.basic.bolt import Bolt, Params
from agentcy_ray.core.errors import QueryTimeoutError
from agentcy_ray.core.ids import base32

LAST = "\uffff"
"""Above every id."""
_COUNT = "MATCH (n:Entity) RETURN count(n) AS found"  # from the server's own count
_RANGE = "MATCH ({of}:Entity) WHERE {of}.id >= $low AND {of}.id < $high WITH {of} "


@dataclass(frozen=True)
class Nodes:
    """Queries over nodes, each called ``n``."""

    where: str
    rows: int = 50_000
    """How many nodes one query looks at, about."""
    of: ClassVar[str] = "n"

    def text(self) -> str:
        """All but what is returned."""
        return f"{_RANGE.format(of=self.of)} WHERE {self.where}"


@dataclass(frozen=True)
class Edges:
    """Queries over the edges of a type, each called ``r``, from ``a`` to ``b``."""

    type: str
    """Quoted."""
    where: str
    rows: int = 20_000
    """How many nodes one query looks at, about."""
    at_once: int = 100_000
    """A type of which the database has no more is read by one query."""
    of: ClassVar[str] = "a"

    def all(self) -> str:
        """All but what is returned, without a range."""
        return f"MATCH (a)-[r:{self.type}]->(b) WHERE {self.where}"

    def text(self) -> str:
        """All but what is returned, for the edges that start in a range."""
        return f"{_RANGE.format(of=self.of)} MATCH (a)-[r:{self.type}]->(b) WHERE {self.where}"


async def sliced(
    bolt: Bolt, asked: Nodes | Edges, shown: str, params: Params
) -> AsyncGenerator[Record]:
    """Every record of a query, which is asked once for each range of ids.

    Args:
        bolt: the server.
        asked: of which entities.
        shown: ``RETURN …``.
        params: of both; ``low`` and ``high`` are taken.
    """
    if isinstance(asked, Edges) and await _few(bolt, asked):
        async with bolt.cursor(f"{asked.all()} {shown}", params) as cursor:
            async for record in cursor:
                yield record
        return
    counted = await bolt.read(_COUNT)
    whole = f"{asked.text()} {shown}"
    for low, high in ranges(-(-counted[0]["found"] // asked.rows)):
        async with bolt.cursor(whole, {**params, "low": low, "high": high}) as cursor:
            async for record in cursor:
                yield record


async def _few(bolt: Bolt, asked: Edges) -> bool:
    try:
        counted = await bolt.read(f"MATCH ()-[r:{asked.type}]->() RETURN count(r) AS found")
    except QueryTimeoutError:
        return False  # so many that counting them takes too long
    return counted[0]["found"] <= asked.at_once


def ranges(parts: int) -> Iterator[tuple[str, str]]:
    """Ranges of nodes' ids, from the first of each to before the last; one when ``parts`` is less.

    See ``core.ids``: a letter and base32 of 128 bits, whose order as text is that of the number.
    """
    marks = [f"n_{base32((at << 128) // parts)}" for at in range(1, parts)]
    return pairwise(["", *marks, LAST])
