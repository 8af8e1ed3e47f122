"""The order in which many edges are written at once: such that neighbours share their ends.

A graph server keeps the edges of a node with the node, so an edge changes two places. Nodes lie in
the order of their ids, as they were written. Edges in the order of their own ids touch places all
over the graph; here the square of (source, destination) is cut into cells, and the edges go cell by
cell, each cell sharing a side with the next. A run of edges then touches a strip of the sources and
a strip of the destinations: of W edges in runs of T about the square root of T/W of either.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from agentcy_ray.ingest.arrow import pc


def by_ends(edges: pa.Table, run: int) -> pa.Table:
    """``edges`` cell by cell, and in a cell by their source; the sort is stable.

    Args:
        edges: rows with ``src`` and ``dst``.
        run: how many of them are written at once.
    """
    if edges.num_rows <= run:
        return edges
    side = max(1, round((edges.num_rows / run) ** 0.5))
    sources = _ranks(edges["src"])
    row, column = (ranks * side // edges.num_rows for ranks in (sources, _ranks(edges["dst"])))
    column = np.where(row % 2, side - 1 - column, column)  # back along the next row of cells
    return edges.take(pa.array(np.lexsort((sources, row * side + column))))


def _ranks(ends: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The place of each end among all of them, by its id; equal ends have equal ones."""
    ranks = pc.rank(ends, tiebreaker="min").to_numpy(zero_copy_only=False)
    return ranks.astype(np.int64) - 1
