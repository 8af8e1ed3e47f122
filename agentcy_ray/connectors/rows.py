"""Records of a table or of JSON as nodes, and what they point at as edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from agentcy_ray.connectors.base import Batch
from agentcy_ray.connectors.records import BatchBuilder, json_object

_REMEMBERED_TARGETS = 100_000
LABEL = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
"""Pattern of a node label in a config."""
EDGE_TYPE = r"^[A-Z][A-Z0-9_]{0,63}$"
"""Pattern of an edge type in a config."""


@dataclass(frozen=True)
class Link:
    """One edge from a record to another node."""

    type: str
    label: str
    external_id: str
    name: str | None = None


@dataclass(frozen=True)
class Record:
    """One record, ready to be a node; ``name`` None or blank = its external id."""

    external_id: str
    name: str | None
    properties: Mapping[str, Any]
    links: tuple[Link, ...] = ()


def content_id(record: Mapping[str, Any]) -> str:
    """An external id for a record that has none: BLAKE2b-128 of its canonical JSON."""
    return blake2b(json_object(record).encode(), digest_size=16).hexdigest()


class GraphRows:
    """Builds node and edge batches from records of one label.

    A link to another label also yields the node it points at, once (records of a file name those
    nodes, no other file does). A link to the same label points at another record of the file.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._nodes = BatchBuilder("nodes")
        self._edges = BatchBuilder("edges")
        self._targets: set[tuple[str, str]] = set()

    def add(self, record: Record) -> Iterator[Batch]:
        """Take one record; yields the batches that it filled."""
        node = self._nodes.add(
            labels=[self._label],
            external_id=record.external_id,
            name=record.name or record.external_id,
            properties=record.properties,
        )
        if node:
            yield node
        for link in record.links:
            yield from self._link(record.external_id, link)

    def flush(self) -> Iterator[Batch]:
        """What is left, nodes before edges."""
        for builder in (self._nodes, self._edges):
            if rest := builder.flush():
                yield rest

    def _link(self, external_id: str, link: Link) -> Iterator[Batch]:
        target = (link.label, link.external_id)
        if link.label != self._label and target not in self._targets:
            if len(self._targets) >= _REMEMBERED_TARGETS:
                self._targets.clear()  # a repeated node is harmless; an endless set is not
            self._targets.add(target)
            node = self._nodes.add(
                labels=[link.label],
                external_id=link.external_id,
                name=link.name or link.external_id,
                properties={},
            )
            if node:
                yield node
        edge = self._edges.add(
            src_label=self._label,
            src_external_id=external_id,
            type=link.type,
            dst_label=link.label,
            dst_external_id=link.external_id,
            properties={},
        )
        if edge:
            yield edge
