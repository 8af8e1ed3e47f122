"""Making packages of an extract, and bringing stored ones to this machine.

The writer addresses, sorts and writes segments into a local folder; nothing reaches the object
store before ``upload``. So an extract that fails, or that changes nothing, leaves no object behind.

Memory: the spools' buffers (48 MiB a kind) while extracting, then one row group (4 MiB) of each
sorted run, whatever the size of the source. Disk: about twice the package below the work folder.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import pyarrow as pa

from agentcy_ray.connectors.base import Batch, Rejected
from agentcy_ray.core.batches import DOCUMENTS, EDGES
from agentcy_ray.core.errors import NotFoundError, PackageCorruptError
from agentcy_ray.ingest.addressing import PACKAGE_NODES, Addressed, Addresser
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.manifest import KEYS, KINDS, TOMBSTONE_KINDS, Kind, Manifest, Segment
from agentcy_ray.ingest.merge import GONE, Stream, live
from agentcy_ray.ingest.segments import file_sha256, write_segments
from agentcy_ray.ingest.spool import Spool, full_disk_is_typed
from agentcy_ray.ingest.state import Keys, Layer, State

if TYPE_CHECKING:
    from agentcy_ray.stores.objects import ObjectStore

_MEND = "restore it from a backup of the object store, or delete the source and make it anew"


@dataclass(frozen=True)
class PackageFacts:
    """What a manifest says beside what is in the segments."""

    package_id: UUID
    org_id: UUID
    source_id: UUID
    connector: str
    connector_version: str
    created_at: datetime
    cursors: Mapping[str, Mapping[str, Any]]


class PackageWriter:
    """Takes the batches of one extract; its methods block and belong on a thread."""

    def __init__(self, addresser: Addresser, folder: Path) -> None:
        self._addresser = addresser
        self._folder = folder
        with full_disk_is_typed():
            folder.mkdir(parents=True, exist_ok=True)
        self._spools: dict[Kind, Spool] = {
            "nodes": Spool(PACKAGE_NODES, "id", folder),
            "edges": Spool(EDGES, "id", folder),
            "documents": Spool(DOCUMENTS, "node_id", folder),
        }
        self._removed_nodes: list[pa.ChunkedArray] = []

    def add(self, batch: Batch) -> tuple[Rejected, ...]:
        """Take a batch; returns the rows that could not be addressed."""
        made: Addressed = getattr(self._addresser, batch.kind)(batch.rows)
        if batch.kind in self._spools:
            self._spools[batch.kind].add(made.rows)  # type: ignore[index]
            return made.rejected
        for kind in KINDS:
            gone = made.rows.filter(pc.equal(made.rows["kind"], TOMBSTONE_KINDS[kind]))["id"]
            self._spools[kind].remove(gone)
            if kind == "nodes" and len(gone):
                self._removed_nodes.append(gone)
        return made.rejected

    @property
    def empty(self) -> bool:
        """Whether nothing at all was yielded."""
        return not any(spool.rows for spool in self._spools.values())

    @property
    def taken(self) -> int:
        """Rows taken so far, tombstones included."""
        return sum(spool.rows for spool in self._spools.values())

    def seal(self, facts: PackageFacts, base: State | None) -> Layer:
        """Write the segments and describe them.

        Args:
            facts: what the manifest says.
            base: the state that a delta continues; None for a full package.

        Raises:
            StorageFullError: the disk is full.
        """
        if base is not None and self._removed_nodes:
            self._take_edges_along(base)
        segments: list[Segment] = []
        gone: list[tuple[str, pa.ChunkedArray]] = []
        counts: dict[str, int] = {"duplicates": 0}
        for kind, spool in self._spools.items():
            segments += write_segments(
                kind, live(_parted(kind, spool.sorted(), gone)), self._folder
            )
            counts[kind] = sum(segment.rows for segment in segments if segment.kind == kind)
            counts["duplicates"] += spool.duplicates
        if base is not None:
            segments += write_segments("tombstones", iter(_tombstones(gone)), self._folder)
        counts["tombstones"] = sum(s.rows for s in segments if s.kind == "tombstones")
        return _layer(facts, base, segments, counts, self._folder)

    def discard(self) -> None:
        """Remove everything that was written locally."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take_edges_along(self, base: State) -> None:
        """A node that is gone takes its edges along, unless this extract yields them anew."""
        nodes = Keys(self._removed_nodes)
        for table in base.stream("edges", ["src", "dst"]):
            mask = pc.or_(nodes.mask(table["src"]), nodes.mask(table["dst"]))
            lost = table.filter(mask)["id"]
            if len(lost):
                self._spools["edges"].remove(lost.combine_chunks(), first=True)


def fold(state: State, facts: PackageFacts, folder: Path) -> Layer:
    """Write the state of a chain as one full package.

    Raises:
        StorageFullError: the disk is full.
    """
    with full_disk_is_typed():
        folder.mkdir(parents=True, exist_ok=True)
    segments: list[Segment] = []
    counts = {"duplicates": 0, "tombstones": 0}
    schemas = {"nodes": PACKAGE_NODES, "edges": EDGES, "documents": DOCUMENTS}
    for kind in KINDS:
        written = write_segments(kind, state.stream(kind, schemas[kind].names), folder)
        counts[kind] = sum(segment.rows for segment in written)
        segments += written
    return _layer(facts, None, segments, counts, folder)


def _layer(
    facts: PackageFacts,
    base: State | None,
    segments: list[Segment],
    counts: dict[str, int],
    folder: Path,
) -> Layer:
    manifest = Manifest(
        package_id=facts.package_id,
        org_id=facts.org_id,
        source_id=facts.source_id,
        connector=facts.connector,
        connector_version=facts.connector_version,
        state="full" if base is None else "delta",
        base=base.layers[-1].manifest.package_id if base is not None else None,
        cursors={stream: dict(cursor) for stream, cursor in facts.cursors.items()},
        counts=counts,
        segments=tuple(segments),
        created_at=facts.created_at,
    )
    return Layer(manifest.sealed(), {s.path: folder / s.path for s in segments})


async def upload(objects: ObjectStore, layer: Layer) -> None:
    """Put a sealed package on the object store, its manifest last.

    Raises:
        StorageFullError: the object store has no space left.
    """
    prefix = layer.manifest.prefix
    for segment in layer.manifest.segments:
        await objects.put_new(prefix + segment.path, layer.files[segment.path])
    body = orjson.dumps(layer.manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
    await objects.put_new(prefix + "manifest.json", body)


async def localize(objects: ObjectStore, manifest: Manifest, cache: Path) -> Layer:
    """A stored package with its segments on this machine, each checked against the manifest.

    Args:
        objects: where it is stored.
        manifest: which one.
        cache: folder for segments of a store that is not local.

    Raises:
        PackageCorruptError: a segment is missing or its hash differs.
    """
    files: dict[str, Path] = {}
    for segment in manifest.segments:
        key = manifest.prefix + segment.path
        path = objects.local_path(key)
        if path is None:
            path = cache / manifest.package_id.hex / segment.path
            if not await asyncio.to_thread(path.exists):
                await _download(objects, key, path)
        await asyncio.to_thread(_verify, manifest, segment, path)
        files[segment.path] = path
    return Layer(manifest, files)


async def delete_package(objects: ObjectStore, prefix: str) -> int:
    """Remove the objects of a package, the manifest first; returns how many there were."""
    keys = await objects.list(prefix.rstrip("/"))
    keys.sort(key=_manifest_first)
    for key in keys:
        await objects.delete(key)
    return len(keys)


def _manifest_first(key: str) -> bool:
    return not key.endswith("/manifest.json")


async def _download(objects: ObjectStore, key: str, path: Path) -> None:
    part = path.with_suffix(".part")
    try:
        with full_disk_is_typed():
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            with part.open("wb") as file:
                async for piece in objects.stream(key):
                    await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(part.replace, path)
    except NotFoundError as error:
        raise PackageCorruptError(
            f"object {key} of a package is missing; {_MEND}", key=key
        ) from error


def _verify(manifest: Manifest, segment: Segment, path: Path) -> None:
    key = manifest.prefix + segment.path
    if not path.exists():
        raise PackageCorruptError(f"object {key} of a package is missing; {_MEND}", key=key)
    if path.stat().st_size != segment.bytes or file_sha256(path) != segment.sha256:
        raise PackageCorruptError(f"object {key} differs from its manifest; {_MEND}", key=key)


def _parted(kind: Kind, rows: Stream, gone: list[tuple[str, pa.ChunkedArray]]) -> Stream:
    """Pass rows on and put the keys of tombstones aside."""
    for table in rows:
        keys = table.filter(table[GONE])[KEYS[kind]]
        if len(keys):
            gone.append((TOMBSTONE_KINDS[kind], keys))
        yield table


def _tombstones(gone: Sequence[tuple[str, pa.ChunkedArray]]) -> list[pa.Table]:
    return [
        pa.table({"kind": pa.repeat(pa.scalar(kind, pa.string()), len(keys)), "id": keys})
        for kind, keys in gone
    ]
