"""Stand-ins at the seams of the loop: recording tools, a graph and an index of known content."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.context_build import ContextBuilder
from agentcy_ray.agent.control import RunControl
from agentcy_ray.agent.gateway import Released
from agentcy_ray.agent.loop import AgentLoop, LoopParts
from agentcy_ray.agent.metatools import META_TOOLS, Use
from agentcy_ray.agent.run_records import Run
from agentcy_ray.agent.spending import Spending
from agentcy_ray.agent.tool_turn import Tools
from agentcy_ray.agent.turns import TurnStore
from agentcy_ray.context.engine import (
    Node,
    Query,
    QueryResult,
    Scope,
    SearchAnswer,
    SearchQuery,
    SourceRef,
    Subgraph,
)
from agentcy_ray.core.events import EventType, RunEvent
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import Effect, ToolCall, ToolFault, ToolResult, ToolStatus
from agentcy_ray.llm.registry import Models
from agentcy_ray.retrieval.queries import Hit, HitSource, HybridQuery, SearchHits
from tests.agent.loop.conftest import World

EFFECTS = {
    "read": Effect.READ,
    "search": Effect.READ,
    "write": Effect.WRITE,
    "destroy": Effect.DESTRUCTIVE,
}
Answer = Callable[[OpenCall], Awaitable[Any]]


@dataclass
class RecordingTools:
    """Tools without gates: what was opened, begun and ended, in order."""

    answer: Answer | None = None
    log: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    overlap: int = 0
    most: int = 0

    async def open(self, ctx: CallContext, uses: Sequence[Use]) -> list[OpenCall]:
        return [self._opened(ctx, *use) for use in uses]

    def _opened(self, ctx: CallContext, name: str, args: dict[str, Any], position: int) -> OpenCall:
        tool = str(args.get("tool", name))
        call = ToolCall(
            connector=str(args.get("connector", "")),
            tool=tool,
            args=args.get("args", {}),
            run_id=ctx.run_id,
            position=position,
        )
        opened = OpenCall(ctx.call_id(position), call, effect=EFFECTS.get(tool, Effect.READ))
        self.log.append(("open", f"{tool}@{position}"))
        if tool == "denied":
            opened.result = opened.ended(ToolStatus.DENIED, "policy_denied", "no")
        return opened

    async def finish(self, ctx: CallContext, calls: Sequence[OpenCall], released: Released) -> None:
        async def one(opened: OpenCall) -> None:
            if opened.result is None:
                opened.result = await self._made(opened)
            await released([opened])

        await asyncio.gather(*map(one, calls))

    async def _made(self, opened: OpenCall) -> ToolResult:
        name = f"{opened.call.tool}@{opened.call.position}"
        self.log.append(("begin", name))
        self.overlap += 1
        self.most = max(self.most, self.overlap)
        try:
            value = await self.answer(opened) if self.answer else {"ok": True}
            self.log.append(("end", name))
        except Fault as fault:
            return ToolResult(
                tool_call_id=opened.tool_call_id,
                status=ToolStatus.ERROR,
                error=ToolFault(code="connector_error", message=str(fault)),
            )
        finally:
            self.overlap -= 1
        return ToolResult(
            tool_call_id=opened.tool_call_id, status=ToolStatus.COMPLETED, result=value
        )

    def steps(self, step: str) -> list[str]:
        return [name for kind, name in self.log if kind == step]


class Fault(Exception):
    """A tool fails."""


class NoApprovals:
    """Nothing waits."""

    async def cancel_for_run(self, org_id: UUID, run_id: UUID) -> int:
        return 0


def node(name: str, label: str = "File") -> Node:
    return Node(
        id=f"n_{name}",
        labels=(label,),
        realm="development",
        name=name,
        properties={},
        source=SourceRef(connector="git", source_id="s", external_id=f"{label}:{name}"),
    )


@dataclass
class Graph:
    """A graph of nodes without edges."""

    nodes: Sequence[Node] = ()
    scopes: list[Scope] = field(default_factory=list[Scope])

    async def search(self, scope: Scope, query: SearchQuery) -> SearchAnswer:
        self.scopes.append(scope)
        hits = tuple(n for n in self.nodes if query.text.casefold() in n.name.casefold())
        return SearchAnswer(
            hits=hits, total=len(hits), labels=(), sources=(), interval="day", histogram=()
        )

    async def query(self, scope: Scope, query: Query) -> QueryResult:
        self.scopes.append(scope)
        rows = tuple((n.id,) for n in self.nodes if n.name in query.params["names"])
        return QueryResult(columns=(), rows=rows, truncated=False, took_ms=0.0, engine="basic")

    async def nodes_by_id(self, scope: Scope, ids: Sequence[str]) -> list[Node]:
        return [n for wanted in ids for n in self.nodes if n.id == wanted]

    async def neighbors(self, scope: Scope, node_id: str, **_: Any) -> Subgraph:
        return Subgraph(nodes=(), edges=())


@dataclass
class Index:
    """An index that finds all of its passages for every query."""

    passages: Mapping[str, str] = field(default_factory=dict[str, str])
    fault: Exception | None = None
    asked: list[tuple[tuple[str, ...] | None, str]] = field(
        default_factory=list[tuple[tuple[str, ...] | None, str]]
    )

    async def hybrid(
        self, org_id: UUID, realms: tuple[str, ...] | None, query: HybridQuery
    ) -> SearchHits:
        self.asked.append((realms, query.query))
        if self.fault is not None:
            raise self.fault
        hits = tuple(
            Hit(
                node_id=f"n_{name}",
                labels=("File",),
                score=1.0,
                scores={},
                name=name,
                snippet=text,
                url=None,
                properties={},
                source=HitSource(connector="git", source_id=new_id(), external_id=name),
                realm="development",
            )
            for name, text in self.passages.items()
        )
        return SearchHits(hits=hits[: query.top_k], took_ms=0.0, space=None)


def context_of(
    world: World, graph: Graph | None = None, index: Index | None = None
) -> ContextBuilder:
    return ContextBuilder(graph or Graph(), index or Index(), world.conversations)  # type: ignore[arg-type]


def loop_of(
    world: World,
    tools: Tools | None = None,
    *,
    graph: Graph | None = None,
    index: Index | None = None,
    models: Models | None = None,
    spending: Spending | None = None,
    **settings: Any,
) -> AgentLoop:
    return AgentLoop(
        LoopParts(
            settings=world.settings.model_copy(update=settings),
            runs=world.runs,
            log=world.log,
            turns=TurnStore(world.db, world.log),
            agents=world.agents,
            models=models or Models(world.settings),
            context=context_of(world, graph, index),
            tools=tools or RecordingTools(),
            offers=META_TOOLS,
            approvals=NoApprovals(),
            spending=spending,
        )
    )


async def execute(world: World, loop: AgentLoop, owner: str = "a") -> list[RunEvent]:
    """Claim the one run that waits, execute it, and give its log."""
    run = await world.claim(owner)
    await asyncio.wait_for(loop.execute(run, RunControl()), 60)
    return await log_of(world, run)


async def log_of(world: World, run: Run) -> list[RunEvent]:
    events = await world.log.read(world.org_id, run.id, limit=10_000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].type is EventType.MESSAGE_START
    assert [event.terminal for event in events].count(True) <= 1
    return events


def words(events: Sequence[RunEvent]) -> str:
    return "".join(e.data["delta"] for e in events if e.type is EventType.CONTENT_DELTA)


def of(events: Sequence[RunEvent], type_: EventType) -> list[dict[str, Any]]:
    return [event.data for event in events if event.type is type_]
