"""Tools of the platform itself: retrieval, the context engine, artifacts.

They pass the same gates as a connector's tools, under the permission of their area. What they read
is bound to the realms of the call, whatever the arguments say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid5

from agentcy_ray.agent.artifacts import Artifacts
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.context.engine import ContextEngine, Query, Scope
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import encode
from agentcy_ray.core.tools import CatalogEntry, Effect, ToolSpec
from agentcy_ray.retrieval.queries import Filters, HybridQuery, SearchHits

_ARTIFACTS = UUID("6f2c1d0e-9a55-5f0b-8a43-6b6a1f7f3f10")
"""Namespace of artifact ids: one call publishes one artifact, however often it is carried out."""
_TEXTS = {"type": "array", "items": {"type": "string"}, "maxItems": 100}
_NODE_ID = {"type": "string", "description": "id of a node, n_…"}
Handler = Callable[[CallContext, dict[str, Any], OpenCall], Awaitable[Any]]


class Search(Protocol):
    """What ``rag.search`` needs of retrieval; ``SearchService`` is one."""

    async def hybrid(
        self, org_id: UUID, realms: Sequence[str] | None, query: HybridQuery
    ) -> SearchHits:
        """Search by meaning and by words."""
        ...


@dataclass(frozen=True)
class Builtin:
    """A tool, the permission that it takes, and what carries it out."""

    connector: str
    spec: ToolSpec
    permission: str
    handler: Handler


class Builtins:
    """The built-in connectors ``rag``, ``context`` and ``artifacts``."""

    def __init__(self, search: Search, engine: ContextEngine, artifacts: Artifacts) -> None:
        self._search = search
        self._engine = engine
        self._artifacts = artifacts
        self._tools = {f"{tool.connector}.{tool.spec.name}": tool for tool in self._declared()}

    def specs(self) -> Iterable[tuple[str, ToolSpec]]:
        """(connector, tool) of each, for the catalog."""
        return [(tool.connector, tool.spec) for tool in self._tools.values()]

    def permission(self, entry: CatalogEntry) -> str:
        """The permission that a built-in tool takes."""
        return self._tools[entry.name].permission

    async def call(self, ctx: CallContext, entry: CatalogEntry, opened: OpenCall) -> Any:
        """Carry a call out; arguments were checked against the schema.

        Raises:
            AgentcyError: what the engine, the index or the store behind it raises.
        """
        return await self._tools[entry.name].handler(ctx, opened.call.args, opened)

    def _declared(self) -> Iterable[Builtin]:
        languages = [
            name
            for name, able in (
                ("cypher", self._engine.capabilities.cypher),
                ("kql", self._engine.capabilities.kql),
                ("sql", self._engine.capabilities.sql),
            )
            if able
        ]
        yield Builtin(
            "rag",
            _tool(
                "search",
                "Search documents and entities",
                "Find passages and entities by meaning and by words: documentation, code, "
                "tickets, messages. Each hit has a node id that context.neighbors takes.",
                {
                    "query": {"type": "string", "minLength": 1, "maxLength": 4096},
                    "top_k": {"type": "integer", "minimum": 1, "maximum": 50, "default": 8},
                    "labels": {**_TEXTS, "description": "only entities with one of these labels"},
                    "sources": {**_TEXTS, "description": "only from these sources, by name"},
                },
                ["query"],
            ),
            "rag.search",
            self._rag_search,
        )
        yield Builtin(
            "context",
            _tool(
                "query",
                "Query the knowledge graph",
                "Run a read-only graph query and get its rows. Pass values in params. "
                "Use it to count, list and follow relationships.",
                {
                    "query": {"type": "string", "minLength": 1, "maxLength": 65_536},
                    "language": {"enum": languages, "default": languages[0]},
                    "params": {"type": "object"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50},
                },
                ["query"],
            ),
            "graph.query",
            self._query,
        )
        yield Builtin(
            "context",
            _tool(
                "get_node",
                "Read one entity",
                "Read all properties of one entity of the knowledge graph by its node id.",
                {"id": _NODE_ID},
                ["id"],
            ),
            "graph.read",
            self._get_node,
        )
        yield Builtin(
            "context",
            _tool(
                "neighbors",
                "Follow relationships of an entity",
                "List the entities around a node, one to three hops away, with the edges between.",
                {
                    "id": _NODE_ID,
                    "depth": {"type": "integer", "minimum": 1, "maximum": 3, "default": 1},
                    "direction": {"enum": ["out", "in", "both"], "default": "both"},
                    "types": {**_TEXTS, "description": "only edges of these types"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 50},
                },
                ["id"],
            ),
            "graph.read",
            self._neighbors,
        )
        yield Builtin(
            "artifacts",
            _tool(
                "publish_artifact",
                "Publish a file",
                "Keep a text that you have written (a report, a table, a diff) as a file that "
                "people can open and download.",
                {
                    "name": {"type": "string", "pattern": r"^[^/\\]{1,200}$"},
                    "content": {"type": "string"},
                    "media_type": {"type": "string", "default": "text/markdown"},
                },
                ["name", "content"],
                effect=Effect.WRITE,
                idempotent=True,
            ),
            "artifact.write",
            self._publish,
        )

    async def _rag_search(self, ctx: CallContext, args: dict[str, Any], _: OpenCall) -> Any:
        query = HybridQuery(
            query=args["query"],
            top_k=args.get("top_k", 8),
            filters=Filters(
                labels=tuple(args.get("labels", ())), sources=tuple(args.get("sources", ()))
            ),
        )
        hits = await self._search.hybrid(ctx.org_id, ctx.realms, query)
        return hits.model_dump(mode="json")

    async def _query(self, ctx: CallContext, args: dict[str, Any], _: OpenCall) -> Any:
        query = Query(
            language=args.get("language") or ("cypher" if self._cypher else "kql"),
            text=args["query"],
            params=args.get("params", {}),
            limit=args.get("limit", 50),
        )
        found = await self._engine.query(_scope(ctx), query)
        return {
            "columns": [column.name for column in found.columns],
            "rows": found.model_dump(mode="json")["rows"],
            "truncated": found.truncated,
            "warnings": list(found.warnings),
        }

    @property
    def _cypher(self) -> bool:
        return self._engine.capabilities.cypher

    async def _get_node(self, ctx: CallContext, args: dict[str, Any], _: OpenCall) -> Any:
        node = await self._engine.node(_scope(ctx), args["id"])
        if node is None:
            raise NotFoundError(f"no node {args['id']!r} here; search to find its id")
        return node.model_dump(mode="json")

    async def _neighbors(self, ctx: CallContext, args: dict[str, Any], _: OpenCall) -> Any:
        found = await self._engine.neighbors(
            _scope(ctx),
            args["id"],
            depth=args.get("depth", 1),
            direction=args.get("direction", "both"),
            types=args.get("types", ()),
            limit=args.get("limit", 50),
        )
        return found.model_dump(mode="json")

    async def _publish(self, ctx: CallContext, args: dict[str, Any], opened: OpenCall) -> Any:
        artifact = await self._artifacts.store(
            ctx.org_id,
            args["name"],
            args["content"].encode(),
            media_type=args.get("media_type", "text/markdown"),
            kind="published",
            run_id=ctx.run_id,
            created_by=ctx.principal.user_id,
            artifact_id=uuid5(_ARTIFACTS, opened.key or opened.tool_call_id.hex),
        )
        told = {
            "artifact_id": encode("art", artifact.id),
            "name": artifact.name,
            "media_type": artifact.media_type,
            "bytes": artifact.bytes,
        }
        await ctx.emit(EventType.ARTIFACT, told)
        return told


def _scope(ctx: CallContext) -> Scope:
    return Scope(org_id=ctx.org_id, realms=ctx.realms)


def _tool(
    name: str,
    title: str,
    description: str,
    properties: dict[str, Any],
    required: list[str],
    *,
    effect: Effect = Effect.READ,
    idempotent: bool = False,
) -> ToolSpec:
    return ToolSpec(
        name=name,
        title=title,
        description=description,
        input_schema={
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        },
        effect=effect,
        idempotent=idempotent,
    )
