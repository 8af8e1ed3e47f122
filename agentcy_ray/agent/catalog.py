"""The tool catalog: what a caller can reach, from enabled sources and the platform itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Protocol
from uuid import UUID

import structlog

from agentcy_ray import __version__
from agentcy_ray.agent.tool_search import ToolGroup, ToolSearch
from agentcy_ray.agent.tool_vectors import ToolVectors
from agentcy_ray.connectors.source_records import Source
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.errors import ConflictError, SourceConfigError, ToolNotFoundError
from agentcy_ray.core.org_cache import OrgCache
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import CatalogEntry, ToolSpec
from agentcy_ray.stores.bell import Bell

EVERYWHERE = "*"
"""Realm of built-in connectors: they are reachable from each."""
_SHAPING = ("name", "connector", "realm", "config_version", "config")
"""What of a source shapes its tools; its status, which every sync moves, does not."""
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


class _Offer:
    """The tools of one source, or of one built-in connector, found by name."""

    def __init__(self, source: Source | None, entries: Sequence[CatalogEntry]) -> None:
        self.source = source
        self.tools = ToolGroup(entries)
        self.named = {(entry.connector, entry.spec.name): entry for entry in entries}

    def of(self, source: Source) -> _Offer | None:
        """This offer for a newer record of its source; None when that offers something else."""
        mine = self.source
        if mine == source:
            return self
        if mine is None or any(getattr(mine, name) != getattr(source, name) for name in _SHAPING):
            return None
        same = copy(self)
        same.source = source
        return same

    def within(self, realms: Sequence[Sequence[str]], connectors: Sequence[str] | None) -> bool:
        """Whether every limit lets it through; what is built in is reached from everywhere."""
        if self.source is None:
            return True
        if connectors is not None and self.source.connector not in connectors:
            return False
        return all(self.source.realm in allowed for allowed in realms)


@dataclass(frozen=True)
class _Snapshot:
    offers: tuple[_Offer, ...]
    holders: dict[tuple[str, str], tuple[_Offer, ...]]
    """(connector, tool) → the offers that have it."""


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
        vectors: ToolVectors | None = None,
    ) -> None:
        """``builtins`` are (connector, tool) of the platform itself.

        Without ``vectors`` tools are searched for by letters alone.
        """
        self._sources = sources
        self._search = ToolSearch(vectors)
        self._builtins = _Offer(
            None,
            [
                CatalogEntry(
                    connector=connector,
                    source=None,
                    source_id=None,
                    realm=EVERYWHERE,
                    version=__version__,
                    spec=spec,
                )
                for connector, spec in builtins
            ],
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
        offers = await self._reached(principal, realm, agent)
        return list(chain.from_iterable(offer.tools.entries for offer in offers))

    async def sources(
        self, principal: Principal, realm: str | None = None, agent: Reach | None = None
    ) -> list[ConnectedSource]:
        """The enabled sources in reach, by name."""
        found = [
            ConnectedSource(offer.source, len(offer.tools.entries))
            for offer in await self._reached(principal, realm, agent)
            if offer.source is not None
        ]
        return sorted(found, key=lambda item: item.source.name)

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
        tool = tool.removeprefix(f"{connector}.")
        snapshot = await self._snapshots.get(principal.org_id)
        realms, connectors = _limits(principal, realm, agent)
        named = [
            offer.named[connector, tool]
            for offer in snapshot.holders.get((connector, tool), ())
            if offer.within(realms, connectors)
        ]
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
        known = sorted({entry.name for entry in await self.entries(principal, realm, agent)})
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
        offers = await self._reached(principal, realm, agent)
        return await self._search.rank(query, [offer.tools for offer in offers], top_k)

    async def settled(self) -> None:
        """Return once the tools that were searched have their vectors, or the model has failed."""
        await self._search.settled()

    async def close(self) -> None:
        """Stop listening and embedding."""
        await self._snapshots.close()
        await self._search.close()

    async def _reached(
        self, principal: Principal, realm: str | None, agent: Reach | None
    ) -> list[_Offer]:
        snapshot = await self._snapshots.get(principal.org_id)
        realms, connectors = _limits(principal, realm, agent)
        return [offer for offer in snapshot.offers if offer.within(realms, connectors)]

    async def _load(self, org_id: UUID, previous: _Snapshot | None) -> _Snapshot:
        """What is offered now; a source that has not changed keeps its offer, and its indexes."""
        former = {o.source.id: o for o in previous.offers if o.source} if previous else {}
        offers = [self._builtins]
        for source in await self._all(org_id):
            if source.enabled:
                kept = former.get(source.id)
                same = kept.of(source) if kept is not None else None
                offers.append(same or self._offer(source))
        if previous is not None and offers == list(previous.offers):
            return previous
        holders: dict[tuple[str, str], tuple[_Offer, ...]] = {}
        for offer in offers:
            for name in offer.named:
                holders[name] = (*holders.get(name, ()), offer)
        return _Snapshot(tuple(offers), holders)

    async def _all(self, org_id: UUID) -> Sequence[Source]:
        found: list[Source] = []
        while True:
            before = found[-1].id if found else None
            page = await self._sources.list(org_id, limit=200, before=before)
            found += page
            if len(page) < 200:
                return found

    def _offer(self, source: Source) -> _Offer:
        registry = self._sources.registry
        try:
            version = registry.get(source.connector).spec.version
            specs = registry.tools(source.connector, source.config)
        except SourceConfigError as error:
            # A connector that was uninstalled or has become stricter: the source shows it when it
            # is tested, and must not take the other sources' tools away.
            _log.warning("source_offers_no_tools", source=source.name, problem=error.message)
            return _Offer(source, ())
        entries = [
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
        return _Offer(source, entries)


def _limits(
    principal: Principal, realm: str | None, agent: Reach | None
) -> tuple[list[Sequence[str]], Sequence[str] | None]:
    """The sets of realms that all have to hold a source's, and the connectors allowed."""
    realms: list[Sequence[str]] = [
        allowed
        for allowed in (principal.realms, agent.realms if agent else None)
        if allowed is not None
    ]
    if realm is not None:
        realms.append((realm,))
    return realms, agent.connectors if agent else None
