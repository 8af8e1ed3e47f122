"""The four tools that a model sees. Everything else is found and called through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from agentcy_ray.agent.access_requests import AccessRequests
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.gateway import Gateway, Released
from agentcy_ray.agent.tool_schemas import ArgumentChecks
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.errors import AgentcyError, PolicyDeniedError, ToolNotFoundError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.tools import CatalogEntry, Effect, ToolCall, ToolSpec
from agentcy_ray.stores.postgres import Database

SEARCH_BYTES = 6 * 1024
"""Bound of a search answer; long schemas are shortened to stay in it."""
_EXECUTE = "execute_connector_tool"


def _meta(
    name: str, title: str, description: str, properties: dict[str, Any], required: list[str],
    effect: Effect = Effect.READ,
) -> ToolSpec:  # fmt: skip
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
    )


META_TOOLS: list[ToolSpec] = [
    _meta(
        "list_connectors",
        "List connected sources",
        "List the connected sources (name, connector, realm, number of tools, status) and the "
        "built-in connectors with their tools.",
        {"realm": {"type": "string", "description": "only sources of this realm"}},
        [],
    ),
    _meta(
        "search_connector_tools",
        "Search tools",
        "Find tools by what they do. Gives each tool's name, source, description, effect and "
        "input schema; call it before execute_connector_tool.",
        {
            "query": {"type": "string", "minLength": 1, "maxLength": 1000},
            "top_k": {"type": "integer", "minimum": 1, "maximum": 50, "default": 8},
        },
        ["query"],
    ),
    _meta(
        _EXECUTE,
        "Call a tool",
        "Call one tool of a connector with arguments that fit its input schema. Tools that write "
        "may first wait for a person's approval. Built-in examples: connector rag, tool search, "
        'args {"query": …}; connector context, tool neighbors, args {"id": …}.',
        {
            "connector": {"type": "string"},
            "tool": {"type": "string", "description": "name without the connector"},
            "args": {"type": "object"},
            "source": {"type": "string", "description": "when several sources offer the tool"},
        },
        ["connector", "tool", "args"],
    ),
    _meta(
        "request_connector_access",
        "Ask for access",
        "Ask an administrator to connect something that is missing, with the reason.",
        {
            "connector": {"type": "string", "minLength": 1, "maxLength": 100},
            "reason": {"type": "string", "minLength": 1, "maxLength": 2000},
        },
        ["connector", "reason"],
    ),
]
Use = tuple[str, dict[str, Any], int]
"""Name of a meta-tool (another one gives a result that says what to do), its arguments, and the
position in the run: turn × 1000 + index."""
_BY_NAME = {spec.name: spec for spec in META_TOOLS}


class MetaTools:
    """Answers the four; ``execute_connector_tool`` goes through the gateway."""

    def __init__(self, db: Database, gateway: Gateway) -> None:
        self._access = AccessRequests(db)
        self._gateway = gateway
        self._arguments = ArgumentChecks()
        self._answers = {
            "list_connectors": self._list,
            "search_connector_tools": self._search,
            "request_connector_access": self._request,
        }

    async def open(self, ctx: CallContext, uses: Sequence[Use]) -> list[OpenCall]:
        """Begin calls as the model wrote them; never waits for a person.

        Raises:
            StoreUnavailableError: a gate could not be read.
        """
        calls = [self._read(ctx, use) for use in uses]
        await self._gateway.open_all(ctx, calls)
        return calls

    async def finish(self, ctx: CallContext, calls: Sequence[OpenCall], released: Released) -> None:
        """Bring calls that ``open`` began to their results, as ``Gateway.finish_all``."""
        await self._gateway.finish_all(ctx, calls, released)

    def _read(self, ctx: CallContext, use: Use) -> OpenCall:
        """A call as the gateway takes it, or with its result where the model has erred."""
        name, args, position = use
        call_id, spec = ctx.call_id(position), _BY_NAME.get(name)
        try:
            if spec is None:
                raise ToolNotFoundError(
                    f"there is no tool {name!r}; call tools of connectors by {_EXECUTE}, "
                    f"and find them by search_connector_tools"
                )
            self._arguments.check(name, spec, args)
        except AgentcyError as error:
            opened = OpenCall(call_id, ToolCall("", name, args, position=position))
            opened.result = opened.failed(error)
            return opened
        if name != _EXECUTE:
            opened = OpenCall(call_id, ToolCall("", name, args, position=position))
            opened.local = lambda: self._answers[name](ctx, args)
            return opened
        return OpenCall(
            call_id,
            ToolCall(
                connector=args["connector"],
                tool=args["tool"],
                args=args["args"],
                source=args.get("source"),
                run_id=ctx.run_id,
                position=position,
            ),
        )

    async def _list(self, ctx: CallContext, args: dict[str, Any]) -> Any:
        catalog, realm = self._gateway.catalog, ctx.realm or args.get("realm")
        connected = await catalog.sources(ctx.principal, realm, ctx.agent)
        builtin: dict[str, list[str]] = {}
        for entry in await catalog.entries(ctx.principal, realm, ctx.agent):
            if entry.builtin:
                builtin.setdefault(entry.connector, []).append(entry.spec.name)
        return {
            "sources": [
                {
                    "name": item.source.name,
                    "connector": item.source.connector,
                    "realm": item.source.realm,
                    "tools": item.tools,
                    "status": item.source.status,
                }
                for item in connected
            ],
            "builtin": [{"connector": name, "tools": tools} for name, tools in builtin.items()],
        }

    async def _search(self, ctx: CallContext, args: dict[str, Any]) -> Any:
        found = await self._gateway.catalog.search(
            ctx.principal, args["query"], realm=ctx.realm, agent=ctx.agent,
            top_k=args.get("top_k", 8),
        )  # fmt: skip
        return {"tools": fitted([_shown(entry, score) for entry, score in found])}

    async def _request(self, ctx: CallContext, args: dict[str, Any]) -> Any:
        principal, action = ctx.principal, "access.request"
        principal.require(action)
        policy = self._gateway.policy
        question = policy.inputs.request(
            principal, action, resource_type="access_request", resource_id=None, method="POST",
            path="/access-requests", request_id=ctx.request_id or "", ip=ctx.ip, realm=ctx.realm,
        )  # fmt: skip
        decision = await policy.decide(ctx.org_id, question)
        request_id: UUID | None = None
        if decision.allowed:
            asked = await self._access.ask(principal, args["connector"], args["reason"])
            request_id = asked.id
        await self._gateway.ledger.audit.append(
            AuditEntry(
                org_id=ctx.org_id,
                user_id=principal.user_id,
                api_key_id=principal.api_key_id,
                category="policy",
                action=action,
                decision=decision.decision,
                resource={"type": "access_request", "connector": args["connector"]},
                policy_id=decision.policy_id,
                rule=decision.rule,
                reasons=decision.reasons,
                context={
                    "request_id": ctx.request_id,
                    "run_id": encode("run", ctx.run_id) if ctx.run_id else None,
                },
            )
        )
        if request_id is None:
            raise PolicyDeniedError(f"a policy denies this: {'; '.join(decision.reasons)}")
        return {
            "access_request_id": encode("acc", request_id),
            "status": "pending",
            "note": "an administrator decides; go on without it for now",
        }


def _shown(entry: CatalogEntry, score: float) -> dict[str, Any]:
    return {
        "name": entry.name,
        "source": entry.source,
        "description": entry.spec.description,
        "effect": entry.spec.effect.value,
        "requires_approval": entry.spec.requires_approval,
        "input_schema": entry.spec.input_schema,
        "score": score,
    }


def fitted(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``tools`` within ``SEARCH_BYTES``: the longest schemas shortened first, then the tail cut."""
    shown = [dict(tool) for tool in tools]
    by_size = sorted(shown, key=lambda tool: -len(orjson.dumps(tool["input_schema"])))
    for tool in by_size:
        if _size(shown) <= SEARCH_BYTES:
            return shown
        tool["input_schema"] = _outline(tool["input_schema"])
        tool["schema_shortened"] = True
    while len(shown) > 1 and _size(shown) > SEARCH_BYTES:
        shown.pop()
    return shown


def _size(tools: Sequence[dict[str, Any]]) -> int:
    return len(orjson.dumps({"tools": tools}))


def _outline(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema's argument names with their types, and which are required."""
    properties: dict[str, Any] = schema.get("properties", {})
    return {
        "properties": {
            name: part.get("type", "enum" if "enum" in part else "any")
            for name, part in properties.items()
        },
        "required": schema.get("required", []),
    }
