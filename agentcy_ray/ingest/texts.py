"""Which entities have text to embed anew: nodes whose own text or whose document changed.

Four streams sorted by node id (nodes and documents, before and after) are aligned; a window holds
an entity together with its document, whichever of the two changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from agentcy_ray.core.batches import DOCUMENTS
from agentcy_ray.ingest.addressing import PACKAGE_NODES
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.diff import Difference, compared
from agentcy_ray.ingest.merge import Stream, aligned, flat, last_key
from agentcy_ray.ingest.state import Keys


@dataclass(frozen=True)
class TextWindow:
    """One key range: what to chunk, what only moved in its properties, what is gone."""

    last: str
    nodes: pa.Table
    """Nodes whose chunks are to be made anew."""
    documents: pa.Table
    """The documents of those that have one."""
    touched: pa.Table
    """Nodes that changed, yet not in what is embedded."""
    gone: pa.Array
    """Ids of nodes that are no more."""


@dataclass(frozen=True)
class Texts:
    """The texts of a difference."""

    difference: Difference

    def count(self) -> int:
        """How many nodes are to be chunked anew."""
        return sum(window.nodes.num_rows for window in self.windows(bare=True))

    def windows(self, *, after: str | None = None, bare: bool = False) -> Iterator[TextWindow]:
        """Windows that have something to do.

        Args:
            after: only nodes behind this id.
            bare: read keys and hashes only.
        """
        within = self._within()
        hashes = ["content_hash", "text_hash"]
        node_columns = hashes if bare else PACKAGE_NODES.names
        document_columns = ["content_hash"] if bare else DOCUMENTS.names
        before, now = self.difference.before, self.difference.after
        streams = [
            before.stream("nodes", hashes, after=after, within=within),
            now.stream("nodes", node_columns, after=after, within=within),
            _by_node(before.stream("documents", ["content_hash"], after=after, within=within)),
            _by_node(now.stream("documents", document_columns, after=after, within=within)),
        ]
        blank_nodes = _blank(PACKAGE_NODES, ["id", *node_columns])
        blank_documents = _blank(DOCUMENTS, ["node_id", *document_columns]).rename_columns({
            "node_id": "id"
        })
        for old, new, old_documents, documents in aligned(streams, "id"):
            window = _window(
                old,
                blank_nodes if new is None else new,
                old_documents,
                blank_documents if documents is None else documents,
            )
            if window.nodes.num_rows or window.touched.num_rows or len(window.gone):
                yield window

    def _within(self) -> Keys | None:
        touched = self.difference.touched
        return None if touched is None else touched["nodes"].joined(touched["documents"])


def _window(
    old: pa.Table | None, new: pa.Table, old_documents: pa.Table | None, documents: pa.Table
) -> TextWindow:
    tables = [table for table in (old, new, old_documents, documents) if table is not None]
    last = max(last_key(table, "id") for table in tables if table.num_rows)
    text = _compared(old, new, "text_hash")
    content = _compared(old, new, "content_hash")
    body = _compared(old_documents, documents, "content_hash")
    moved = [documents.filter(body[0])["id"], body[1]]
    bodies = pa.concat_arrays([flat(ids).cast(pa.string()) for ids in moved])
    anew = pc.or_(text[0], pc.is_in(new["id"], value_set=bodies))
    nodes = new.filter(anew)
    return TextWindow(
        last,
        nodes,
        documents.filter(pc.is_in(documents["id"], value_set=flat(nodes["id"]))).rename_columns({
            "id": "node_id"
        }),
        new.filter(pc.and_(content[0], pc.invert(anew))),
        text[1],
    )


def _compared(old: pa.Table | None, new: pa.Table, by: str) -> tuple[pa.Array, pa.Array]:
    """Mask of the changed rows, and the keys that are gone."""
    if not new.num_rows and (old is None or not old.num_rows):
        return pa.array([], pa.bool_()), pa.array([], pa.string())
    window = compared(old, new, "id", by)
    return window.changed, window.archived


def _by_node(stream: Stream) -> Stream:
    for table in stream:
        yield table.rename_columns({"node_id": "id"})


def _blank(schema: pa.Schema, names: list[str]) -> pa.Table:
    return pa.schema([schema.field(name) for name in dict.fromkeys(names)]).empty_table()
