"""Reading more than one query may: by ranges of ids.

A server stops a query at its time limit, also one whose rows are being read all the while. Ids are
hashes, so ranges of equal width hold about as many entities each; a server that does not find a
range by its index looks at each entity once per range, at about 3 µs on two cores.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from itertools import pairwise

from neo4j import Record

from agentcy_ray.context.basic.bolt import Bolt, Params
from agentcy_ray.context.engine import EntityKind
from agentcy_ray.core.ids import base32

SLICE_ROWS = 200_000
"""Entities that one query reads, about."""
LAST = "\uffff"
"""Above every id."""
_SLICE = " AND {of}.id >= $low AND {of}.id < $high "


def variable(kind: EntityKind) -> str:
    """What queries that are read in slices call an entity."""
    return "n" if kind == "node" else "r"


async def sliced(
    bolt: Bolt, kind: EntityKind, text: str, shown: str, params: Params, rows: int = SLICE_ROWS
) -> AsyncGenerator[Record]:
    """Every record of a query, which is asked once for each range of ids.

    Args:
        bolt: the server.
        kind: whose ids.
        text: ``MATCH … WHERE …``, which calls the entity as ``variable`` says.
        shown: ``RETURN …``.
        params: of both.
        rows: about how many one query reads.
    """
    of = variable(kind)
    counted = await bolt.read(f"{text} RETURN count({of}) AS found", params)
    whole = text + _SLICE.format(of=of) + shown
    for low, high in ranges(kind, -(-counted[0]["found"] // rows)):
        async with bolt.cursor(whole, {**params, "low": low, "high": high}) as cursor:
            async for record in cursor:
                yield record


def ranges(kind: EntityKind, parts: int) -> Iterator[tuple[str, str]]:
    """Ranges of ids, from the first of each to before the last; one when ``parts`` is less.

    See ``core.ids``: a letter and base32 of 128 bits, whose order as text is that of the number.
    """
    marks = [f"{kind[0]}_{base32((at << 128) // parts)}" for at in range(1, parts)]
    return pairwise(["", *marks, LAST])
