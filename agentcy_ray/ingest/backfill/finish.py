"""What makes a filled space fit to be searched: its indexes, and the check of what they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentcy_ray.retrieval.index_build import BuildProgress, IndexBuilder
from agentcy_ray.retrieval.recall import recall_at

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.retrieval.space import Space
    from agentcy_ray.retrieval.spaces import SpaceStore
    from agentcy_ray.retrieval.vector_backends import VectorBackends
    from agentcy_ray.stores.postgres import Database


@dataclass(frozen=True)
class IndexFinisher:
    """The ``Finisher`` of spaces of every backend."""

    db: Database
    spaces: SpaceStore
    settings: Settings
    backends: VectorBackends | None = None

    async def index(self, space: Space, tell: Callable[[str], None]) -> None:
        """Build the indexes that are missing.

        Raises:
            ConfigError: the login role does not own the table.
            StorageFullError: neither disk nor shared memory takes an index.
            StoreUnavailableError: Postgres went away; the next attempt goes on.
        """

        async def report(seen: BuildProgress) -> None:
            tell(f"index {seen.place} of {seen.of}: {seen.done:,} of {seen.total:,} rows")

        await IndexBuilder(self.db, self.spaces, self.settings).build(space, report)

    async def recall(self, space: Space) -> Mapping[str, Any]:
        """Recall@10 of the index against an exact search; it is kept with the space as well."""
        found = await recall_at(self.db, self.spaces, self.settings, space, backends=self.backends)
        return found.record()
