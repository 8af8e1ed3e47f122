"""The tool catalog: what a caller can reach, from enabled sources and the platform itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol, TypeVar
from uuid import UUID

import structlog

from agentcy_ray import __version__
from agentcy_ray.agent.tool_search import ToolSearch
from agentcy_ray.connectors.source_records import Source
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.errors import ConflictError, SourceConfigError, ToolNotFoundError
from agentcy_ray.core.org_cache import OrgCache
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import CatalogEntry, ToolSpec
from agentcy_ray.retrieval.embedder import Embedder
from agentcy_ray.stores.bell import Bell

EVERYWHERE = "*"
"""Realm of built-in connectors: they are reachable from each."""
ItemT = TypeVar("ItemT", Source, CatalogEntry)
_log = structlog.get_logger(__name__)


class Reach(Protocol):
    """What of an agent limits its tools; ``AgentProfile`` is one. None = no limit."""

    @property
    def realms(self) -> tuple[str, ...] | None:
        """Realms that it may look into."""
        ...

    @property
    def connectors(self) -> tuple[str, ...] | None:
        """Connectors that it may use."""
        ...


@dataclass(frozen=True)
class _Snapshot:
    sources: tuple[Source, ...]
    entries: tuple[CatalogEntry, ...]


@dataclass(frozen=True)
class ConnectedSource:
    """A reachable source and the number of tools that it offers."""

    source: Source
    tools: int


class Catalog:
    """Tools by organisation; a change of a source is seen at once by ring, else within 5 s."""

    def __init__(
        self,
        sources: SourceStore,
        bell: Bell,
        builtins: Iterable[tuple[str, ToolSpec]] = (),
        embedder: Embedder | None = None,
    ) -> None:
        """``builtins`` are (connector, tool) of the platform itself."""
        self._sources = sources
        self._search = ToolSearch(embedder)
        self._builtins = tuple(
            CatalogEntry(
                connector=connector,
                source=None,
                source_id=None,
                realm=EVERYWHERE,
                version=__version__,
                spec=spec,
            )
            for connector, spec in builtins
        )
        self._snapshots = OrgCache[_Snapshot](
            self._load, listen=lambda org_id: bell.listen(f"ch:catalog:{org_id.hex}")
        )

    async def entries(
        self, principal: Principal, realm: str | None = None, agent: Reach | None = None
    ) -> list[CatalogEntry]:
        """The tools in reach: of the realm, of the agent's connectors, of the caller's realms.

        Built-in tools are always among them; what they read is bound to the realm by themselves.
        """
        snapshot = await self._snapshots.get(principal.org_id)
        return [*self._builtins, *_within(snapshot.entries, principal, realm, agent)]

    async def sources(
        self, principal: Principal, realm: str | None = None, agent: Reach | None = None
    ) -> list[ConnectedSource]:
        """The enabled sources in reach, by name."""
        snapshot = await self._snapshots.get(principal.org_id)
        counts: dict[UUID, int] = {}
        for entry in snapshot.entries:
            if entry.source_id is not None:
                counts[entry.source_id] = counts.get(entry.source_id, 0) + 1
        found = _within(snapshot.sources, principal, realm, agent)
        return [ConnectedSource(s, counts.get(s.id, 0)) for s in sorted(found, key=_name)]

    async def find(
        self,
        principal: Principal,
        connector: str,
        tool: str,
        source: str | None = None,
        *,
        realm: str | None = None,
        agent: Reach | None = None,
    ) -> CatalogEntry:
        """The one tool that is meant.

        Raises:
            ToolNotFoundError: none in reach has this name; the message names near ones.
            ConflictError: ``source_ambiguous``; several sources offer it and none was named.
        """
        entries = await self.entries(principal, realm, agent)
        tool = tool.removeprefix(f"{connector}.")
        named = [e for e in entries if e.connector == connector and e.spec.name == tool]
        found = [e for e in named if source is None or e.source == source]
        if len(found) == 1:
            return found[0]
        if found:
            names = sorted(entry.source or "" for entry in found)
            raise ConflictError(
                f"{connector}.{tool} is offered by several sources: {', '.join(names)}; "
                "name one of them in `source`",
                code="source_ambiguous",
                sources=names,
            )
        if named:
            names = sorted(entry.source or "" for entry in named)
            raise ToolNotFoundError(
                f"no source {source!r} offers {connector}.{tool}; these do: {', '.join(names)}"
            )
        known = sorted({entry.name for entry in entries})
        near = get_close_matches(f"{connector}.{tool}", known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "search for the tool first"
        raise ToolNotFoundError(f"no tool {connector}.{tool} is in reach here; {hint}")

    async def search(
        self,
        principal: Principal,
        query: str,
        *,
        realm: str | None = None,
        agent: Reach | None = None,
        top_k: int = 8,
    ) -> list[tuple[CatalogEntry, float]]:
        """The tools in reach that fit ``query`` best, with scores in 0..1; ties by name."""
        return await self._search.rank(query, await self.entries(principal, realm, agent), top_k)

    async def close(self) -> None:
        """Stop listening."""
        await self._snapshots.close()

    async def _load(self, org_id: UUID, previous: _Snapshot | None) -> _Snapshot:
        sources = tuple(source for source in await self._all(org_id) if source.enabled)
        if previous is not None and previous.sources == sources:
            return previous
        return _Snapshot(sources, tuple(e for source in sources for e in self._offered(source)))

    async def _all(self, org_id: UUID) -> Sequence[Source]:
        found: list[Source] = []
        while True:
            before = found[-1].id if found else None
            page = await self._sources.list(org_id, limit=200, before=before)
            found += page
            if len(page) < 200:
                return found

    def _offered(self, source: Source) -> list[CatalogEntry]:
        registry = self._sources.registry
        try:
            version = registry.get(source.connector).spec.version
            specs = registry.tools(source.connector, source.config)
        except SourceConfigError as error:
            # A connector that was uninstalled or has become stricter: the source shows it when it
            # is tested, and must not take the other sources' tools away.
            _log.warning("source_offers_no_tools", source=source.name, problem=error.message)
            return []
        return [
            CatalogEntry(
                connector=source.connector,
                source=source.name,
                source_id=source.id,
                realm=source.realm,
                version=version,
                spec=spec,
            )
            for spec in specs
        ]


def _name(source: Source) -> str:
    return source.name


def _within(
    items: Iterable[ItemT], principal: Principal, realm: str | None, agent: Reach | None
) -> list[ItemT]:
    """Those of ``items`` that every limit lets through."""
    realms = [r for r in (principal.realms, agent.realms if agent else None) if r is not None]
    if realm is not None:
        realms.append((realm,))
    connectors = agent.connectors if agent else None
    return [
        item
        for item in items
        if all(item.realm in allowed for allowed in realms)
        and (connectors is None or item.connector in connectors)
    ]
