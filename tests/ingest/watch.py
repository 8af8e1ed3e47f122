"""Counts what is written into engine and vectors."""

from __future__ import annotations

from tests.ingest.harness import House

INDEX_WRITES = ("upsert", "refresh", "refresh_nodes", "replace_node_chunks", "archive_nodes")


class Watch:
    """Counts what is written into engine and vectors from now on."""

    def __init__(self, house: House) -> None:
        self.calls: list[str] = []
        self.rows = 0
        for target, names in (
            (house.engine, ("upsert_nodes", "upsert_edges", "archive")),
            (house.stores.index, INDEX_WRITES),
        ):
            for name in names:
                self._wrap(target, name)

    def _wrap(self, target: object, name: str) -> None:
        real = getattr(target, name)
        if hasattr(real, "__wrapped__"):
            real = real.__wrapped__

        async def watched(*args, **how):
            self.calls.append(name)
            if name.startswith("upsert_"):
                self.rows += args[1].num_rows
            elif name == "archive":
                self.rows += len(args[2])
            return await real(*args, **how)

        watched.__wrapped__ = real
        setattr(target, name, watched)
