"""From what a connector names to what the stores hold: ids and content hashes, computed once.

A connector names ends by (label, external id). Here each row gets the ids of
``core.ids.node_id``/``edge_id`` (product specification §12.2) and the hash of what it says. The
hashing is a tight loop over one batch; turning digests into text is done by numpy for all rows at
once. Rows that cannot be addressed are put aside with a reason, one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa

from agentcy_ray.connectors.base import Rejected
from agentcy_ray.core.batches import DOCUMENTS, EDGES, NODES, TOMBSTONES
from agentcy_ray.core.ids import ALPHABET

TextHash = Callable[[Sequence[str], str, dict[str, Any]], str]
"""(labels, name, properties) → hash of what of a node is embedded, hexadecimal."""

PACKAGE_NODES: pa.Schema = NODES.append(pa.field("text_hash", pa.string(), nullable=False))
"""``NODES`` and the hash of the embedded text, so that a diff tells what to embed again."""

_EDGE_TYPE = re.compile(r"[A-Z][A-Z0-9_]*")
_REALM = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_ALPHABET = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
_BITS = np.array([16, 8, 4, 2, 1], dtype=np.uint8)


@dataclass(frozen=True)
class Addressed:
    """Rows that can be stored, and those that cannot."""

    rows: pa.Table
    rejected: tuple[Rejected, ...] = ()


class Addresser:
    """Addresses the batches of one source."""

    def __init__(
        self, org_id: UUID, source_id: UUID, connector: str, realm: str, text_hash: TextHash
    ) -> None:
        self._org = org_id
        self._source = source_id
        self._connector = connector
        self._realm = realm
        self._text_hash = text_hash
        self._heads: dict[tuple[str, str], Any] = {}

    def nodes(self, batch: pa.RecordBatch) -> Addressed:
        """``SOURCE_NODES`` → ``PACKAGE_NODES``."""
        ids: list[bytes] = []
        hashes: list[bytes] = []
        texts: list[str] = []
        kept: list[tuple[list[str], str, str, str, str]] = []
        rejected: list[Rejected] = []
        columns = batch.to_pydict()
        for labels, external, name, properties, realm in zip(
            columns["labels"],
            columns["external_id"],
            columns["name"],
            columns["properties"],
            columns["realm"],
            strict=True,
        ):
            reason = _bad_node(labels, external, realm)
            values = _object(properties)
            if reason or values is None:
                where = f"{labels[0] if labels else 'node'} {external}"
                rejected.append(Rejected(where, reason or "properties are no JSON object"))
                continue
            realm = realm or self._realm
            name = name or external
            canonical = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
            ids.append(self._node(realm, labels[0], external))
            hashes.append(_digest(orjson.dumps([labels, name]), canonical))
            texts.append(self._text_hash(labels, name, values))
            kept.append((labels, realm, name, canonical.decode(), external))
        size = len(kept)
        labels_, realms, names, bodies, externals = _columns(kept, 5)
        rows = pa.Table.from_arrays(
            [
                ids_array("n", ids),
                pa.array(labels_, pa.list_(pa.string())),
                pa.array(realms, pa.string()),
                pa.array(names, pa.string()),
                pa.array(bodies, pa.string()),
                _constant(self._connector, size),
                _constant(self._source.hex, size),
                pa.array(externals, pa.string()),
                hex_array(hashes),
                pa.array(texts, pa.string()),
            ],
            schema=PACKAGE_NODES,
        )
        return Addressed(rows, tuple(rejected))

    def edges(self, batch: pa.RecordBatch) -> Addressed:
        """``SOURCE_EDGES`` → ``EDGES``."""
        ends = self._ends(batch)
        hashes: list[bytes] = []
        bodies: list[str] = []
        rejected = list(ends.rejected)
        sound: list[int] = []
        properties = batch.column("properties").to_pylist()
        for at, row in enumerate(ends.kept):
            values = _object(properties[row])
            if values is None:
                rejected.append(Rejected(ends.names[at], "properties are no JSON object"))
                continue
            canonical = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
            hashes.append(_digest(ends.realms[at].encode(), canonical))
            bodies.append(canonical.decode())
            sound.append(at)
        size = len(sound)
        rows = pa.Table.from_arrays(
            [
                ids_array("e", [ends.ids[at] for at in sound]),
                ids_array("n", [ends.sources[at] for at in sound]),
                ids_array("n", [ends.targets[at] for at in sound]),
                pa.array([ends.types[at] for at in sound], pa.string()),
                pa.array([ends.realms[at] for at in sound], pa.string()),
                pa.array(bodies, pa.string()),
                _constant(self._source.hex, size),
                hex_array(hashes),
            ],
            schema=EDGES,
        )
        return Addressed(rows, tuple(rejected))

    def documents(self, batch: pa.RecordBatch) -> Addressed:
        """``SOURCE_DOCUMENTS`` → ``DOCUMENTS``. A new time alone is no change."""
        texts, media_types, urls = (
            batch.column(name).to_pylist() for name in ("text", "media_type", "url")
        )
        hashes = [
            _digest(media.encode(), (url or "").encode(), text.encode())
            for media, url, text in zip(media_types, urls, texts, strict=True)
        ]
        arrays = [
            self._named(batch),
            batch.column("text"),
            batch.column("media_type"),
            batch.column("url"),
            batch.column("modified_at"),
            hex_array(hashes),
        ]
        return Addressed(pa.Table.from_arrays(arrays, schema=DOCUMENTS))

    def tombstones(self, batch: pa.RecordBatch) -> Addressed:
        """``SOURCE_TOMBSTONES`` → ``TOMBSTONES``: a node goes with its document."""
        ids = self._named(batch)
        return Addressed(pa.concat_tables([_gone("node", ids), _gone("document", ids)]))

    def edge_tombstones(self, batch: pa.RecordBatch) -> Addressed:
        """``SOURCE_EDGE_TOMBSTONES`` → ``TOMBSTONES``."""
        ends = self._ends(batch)
        return Addressed(_gone("edge", ids_array("e", ends.ids)), ends.rejected)

    def document_tombstones(self, batch: pa.RecordBatch) -> Addressed:
        """``SOURCE_DOCUMENT_TOMBSTONES`` → ``TOMBSTONES``."""
        return Addressed(_gone("document", self._named(batch)))

    def _named(self, batch: pa.RecordBatch) -> pa.Array:
        names = (batch.column(name).to_pylist() for name in ("label", "external_id", "realm"))
        return ids_array(
            "n",
            [
                self._node(realm or self._realm, label, external)
                for label, external, realm in zip(*names, strict=True)
            ],
        )

    def _ends(self, batch: pa.RecordBatch) -> _Ends:
        ends = _Ends([], [], [], [], [], [], [], ())
        rejected: list[Rejected] = []
        tail = _prefixed(self._source.hex)
        names = ("src_label", "src_external_id", "type", "dst_label", "dst_external_id")
        columns = [batch.column(name).to_pylist() for name in (*names, "src_realm", "dst_realm")]
        for row, (src_label, src, kind, dst_label, dst, src_realm, dst_realm) in enumerate(
            zip(*columns, strict=True)
        ):
            name = f"{src_label} {src} -{kind}-> {dst_label} {dst}"
            reason = _bad_edge(src_label, src, kind, dst_label, dst, src_realm, dst_realm)
            if reason:
                rejected.append(Rejected(name, reason))
                continue
            home = src_realm or self._realm
            source = self._node(home, src_label, src)
            target = self._node(dst_realm or self._realm, dst_label, dst)
            ends.realms.append(home)
            ends.sources.append(source)
            ends.targets.append(target)
            ends.types.append(kind)
            ends.names.append(name)
            ends.kept.append(row)
        starts = ids_text("n", ends.sources)
        stops = ids_text("n", ends.targets)
        for start, kind, stop in zip(starts, ends.types, stops, strict=True):
            digest = blake2b(b"\0\0\0\x1c" + start, digest_size=16)
            digest.update(_prefixed(kind) + b"\0\0\0\x1c" + stop + tail)
            ends.ids.append(digest.digest())
        ends.rejected = tuple(rejected)
        return ends

    def _node(self, realm: str, label: str, external: str) -> bytes:
        """Digest of a node's external key; the common head of a label is hashed once."""
        head = self._heads.get((realm, label))
        if head is None:
            parts = (self._org.hex, realm, self._source.hex, label)
            head = blake2b(b"".join(map(_prefixed, parts)), digest_size=16)
            self._heads[realm, label] = head
        digest = head.copy()
        digest.update(_prefixed(external))
        return digest.digest()


@dataclass
class _Ends:
    """Edges of a batch by their ends; ``kept`` are row numbers of the batch."""

    ids: list[bytes]
    sources: list[bytes]
    targets: list[bytes]
    types: list[str]
    realms: list[str]
    names: list[str]
    kept: list[int]
    rejected: tuple[Rejected, ...]


def ids_text(prefix: str, digests: Sequence[bytes]) -> list[bytes]:
    """Public ids of 128-bit digests as ASCII bytes, each 28 long."""
    data = _base32(prefix, digests).tobytes()
    return [data[at : at + 28] for at in range(0, len(data), 28)]


def ids_array(prefix: str, digests: Sequence[bytes]) -> pa.Array:
    """Public ids (``n_…``, ``e_…``) of 128-bit digests."""
    return _fixed_text(_base32(prefix, digests).tobytes(), 28)


def hex_array(digests: Sequence[bytes]) -> pa.Array:
    """Digests of 16 bytes as hexadecimal text."""
    return _fixed_text(b"".join(digests).hex().encode(), 32)


def _base32(prefix: str, digests: Sequence[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Crockford base32, most significant group first; the first group holds 3 bits."""
    raw = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(len(digests), 16)
    bits = np.zeros((len(digests), 130), dtype=np.uint8)
    bits[:, 2:] = np.unpackbits(raw, axis=1)
    out = np.empty((len(digests), 28), dtype=np.uint8)
    out[:, 0] = ord(prefix)
    out[:, 1] = ord("_")
    out[:, 2:] = _ALPHABET[bits.reshape(len(digests), 26, 5) @ _BITS]
    return out


def _fixed_text(data: bytes, width: int) -> pa.Array:
    """ASCII texts of one width, laid end to end."""
    size = len(data) // width
    offsets = np.arange(size + 1, dtype=np.int32) * width
    return pa.Array.from_buffers(
        pa.string(), size, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)]
    )


def _digest(*parts: bytes) -> bytes:
    """BLAKE2b-128 over length-prefixed parts."""
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()


def _prefixed(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, "big") + raw


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _bad_node(labels: list[str] | None, external: str, realm: str | None) -> str | None:
    if not labels or not all(labels):
        return "a node needs a label"
    if not external:
        return "a node needs an external id"
    if realm and not _REALM.fullmatch(realm):
        return f"realm {realm!r} is no realm name"
    return None


def _bad_edge(
    src_label: str, src: str, kind: str, dst_label: str, dst: str, *realms: str | None
) -> str | None:
    if not (src_label and src and dst_label and dst):
        return "an edge needs label and external id of both ends"
    if not _EDGE_TYPE.fullmatch(kind):
        return f"edge type {kind!r} is not UPPER_SNAKE"
    for realm in realms:
        if realm and not _REALM.fullmatch(realm):
            return f"realm {realm!r} is no realm name"
    return None


def _gone(kind: str, ids: pa.Array) -> pa.Table:
    return pa.Table.from_arrays([_constant(kind, len(ids)), ids], schema=TOMBSTONES)


def _constant(value: str, size: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), size)


def _columns(rows: list[Any], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[]] * width
