"""The order of a first publish's edges: all of them, and few places to a write."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from agentcy_ray.ingest.edge_order import by_ends

NODES, EDGES, RUN = 1_000, 20_000, 500


def test_a_run_of_edges_touches_a_strip_of_either_end() -> None:
    rng = np.random.default_rng(7)
    ends = [f"n_{n:04d}" for n in range(NODES)]
    src, dst = ([ends[n] for n in rng.integers(0, NODES, EDGES)] for _ in range(2))
    given = pa.table({"id": [f"e_{n:05d}" for n in range(EDGES)], "src": src, "dst": dst})
    ordered = by_ends(given, RUN)
    assert ordered.sort_by("id").equals(given)
    touched = [
        len(set(run["src"].to_pylist())) + len(set(run["dst"].to_pylist()))
        for run in ordered.to_batches(max_chunksize=RUN)
    ]
    in_any_order = 2 * NODES * (1 - np.exp(-RUN / NODES))
    assert np.mean(touched) < in_any_order / 2
    assert by_ends(ordered.slice(0, RUN), RUN).equals(ordered.slice(0, RUN)), "one write is as is"


def test_edges_of_one_hub_are_kept_too() -> None:
    hub = pa.table({"src": ["hub"] * 50, "dst": [f"n{n:02d}" for n in range(50)], "id": range(50)})
    assert by_ends(hub, 10).sort_by("id").equals(hub)
