"""What an embedding space is: its embedder and distance, how its texts were cut, its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.core.ids import OrgId, SpaceId, encode
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import EmbedderInfo

Storage = Literal["vector", "halfvec"]
"""Column type of the vectors: 32 or 16 bits a number."""

Distance = Literal["cosine", "l2", "ip"]

PGVECTOR = "pgvector"
"""The backend whose vectors lie in the table itself."""

MAX_DIM: Mapping[Storage, int] = {"halfvec": 4000, "vector": 2000}
"""Longest vector that an HNSW index of pgvector takes, by storage type."""

CHUNKING_VERSION = 1
"""Goes up when ``Chunker`` or ``chunk_batch`` cuts the same text in another way."""


@dataclass(frozen=True)
class DistanceSql:
    """How pgvector writes a distance."""

    operator: str
    similarity: str
    """From the distance, as ``{d}``, to the cosine of vectors of unit length."""


DISTANCES: Mapping[Distance, DistanceSql] = {
    "cosine": DistanceSql("<=>", "1 - ({d})"),
    "l2": DistanceSql("<->", "1 - ({d}) * ({d}) / 2"),
    "ip": DistanceSql("<#>", "-({d})"),
}


def chunking_signature(settings: Settings) -> str:
    """How texts are cut at these settings; chunks of one signature have the same keys."""
    return f"tokens={settings.chunk_tokens},overlap={settings.chunk_overlap},v={CHUNKING_VERSION}"


class Space(BaseModel):
    """A row of ``embedding_spaces``."""

    model_config = ConfigDict(frozen=True)

    id: SpaceId
    org_id: OrgId
    embedder: str
    signature: str
    revision: str = ""
    dim: int
    distance: Distance = "cosine"
    storage: Storage
    chunking: str = ""
    """How the texts were cut; empty where that was not written down yet."""
    backend: str = PGVECTOR
    """Where the vectors lie; the rest of a chunk is in the table always."""
    table_name: str
    status: str
    progress: dict[str, Any] | None = None
    recall: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    created_at: datetime | None = None
    written_since: datetime | None = None
    """From here on every publish writes this space too; None before its backfill begins."""
    indexed_at: datetime | None = None
    retired_at: datetime | None = None
    drop_after: datetime | None = None
    """The end of a retired space's grace: until then it is written, after it may be dropped."""

    @property
    def remote(self) -> bool:
        """Whether the vectors lie in another store than the table."""
        return self.backend != PGVECTOR

    def require(self, info: EmbedderInfo) -> None:
        """Check that vectors of ``info`` may be compared with those of this space.

        Raises:
            EmbedderUnavailableError: another embedder made the space.
        """
        if info.signature != self.signature:
            raise EmbedderUnavailableError(
                f"the vectors were made by {self.signature!r} and this process embeds with "
                f"{info.signature!r}; set EMBEDDING_MODEL={self.embedder}",
                space=encode("spc", self.id),
                expected=self.signature,
                found=info.signature,
            )
