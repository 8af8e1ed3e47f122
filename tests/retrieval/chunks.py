"""Rows of ``CHUNKS`` for tests, and an embedder whose vectors a test chooses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa

from agentcy_ray.core.batches import CHUNKS
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import EmbedderInfo, Matrix, Vectors, vectors_of
from agentcy_ray.retrieval.passages import chunk_key
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.postgres import Database

SOURCE = UUID(int=0x5150)


def chunk(node: str, text: str, **fields: Any) -> dict[str, Any]:
    """One row; ``fields`` replace its defaults."""
    row: dict[str, Any] = {
        "chunk_key": chunk_key(node, fields.pop("ordinal", 0), text),
        "node_id": node,
        "realm": "development",
        "labels": ["File"],
        "source_id": SOURCE.hex,
        "name": node,
        "text": text,
        "url": None,
        "properties": {},
        "connector": "git",
        "external_id": node,
        "seen_at": None,
    }
    row |= fields
    return row | {"properties": orjson.dumps(row["properties"]).decode()}


def batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=CHUNKS)


def units(matrix: np.ndarray[Any, Any]) -> Matrix:
    rows = matrix.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class ChosenEmbedder:
    """Gives each text the vector that the test chose for it, and others one of their own."""

    def __init__(self, dim: int, chosen: Mapping[str, Any] | None = None) -> None:
        self.info = EmbedderInfo(
            reference="local:chosen", signature=f"chosen/{dim}", dim=dim, max_tokens=512
        )
        self.chosen = dict(chosen or {})
        self.embedded: list[str] = []

    async def embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        return vectors_of(units(np.stack([self._vector(text) for text in texts])))

    def _vector(self, text: str) -> Any:
        if text in self.chosen:
            return self.chosen[text]
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        return np.random.default_rng(seed).standard_normal(self.info.dim)


class Versioned(SpaceStore):
    """Reports a version of pgvector that a test names."""

    def __init__(self, db: Database, settings: Settings, version: tuple[int, int]) -> None:
        super().__init__(db, settings)
        self._version = version


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()
