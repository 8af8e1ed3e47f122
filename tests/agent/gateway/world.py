"""One organisation: a gateway over real stores, and a connector that does as the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from agentcy_ray.agent.calls import CallContext
from agentcy_ray.agent.gates import Gates, open_gates
from agentcy_ray.agent.tool_calls import ToolCallRow
from agentcy_ray.audit.entry import AuditRecord
from agentcy_ray.audit.log import AuditFilter, AuditLog
from agentcy_ray.connectors.base import ConnectorSpec, SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, read_config
from agentcy_ray.connectors.source_records import NewSource, Source
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.engine import Capabilities
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.core.tools import Effect, ToolOutcome, ToolRequest, ToolSpec
from agentcy_ray.policy.store import install_starters
from agentcy_ray.retrieval.queries import HybridQuery, SearchHits
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.objects import ObjectStore
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.vault import Vault
from tests.dispatch import OneByOne

ARGS = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "n": {"type": "integer"}, "password": {}},
    "required": ["id"],
    "additionalProperties": False,
}


def tool(name: str, effect: Effect, what: str, **more: Any) -> ToolSpec:
    return ToolSpec(
        name=name, title=name, description=what, input_schema=ARGS, effect=effect, **more
    )


TOOLS = [
    tool("look", Effect.READ, "Look at one sample under the microscope."),
    tool("peek", Effect.READ, "Read the sealed notebook.", requires_approval=True),
    tool("stir", Effect.WRITE, "Stir a flask once more."),
    tool("pour", Effect.WRITE, "Pour by a meter that keeps a record.", probe=True),
    tool("label", Effect.WRITE, "Put a label on a flask.", idempotent=True),
    tool("discard", Effect.DESTRUCTIVE, "Throw a sample away for good."),
    tool("slow", Effect.WRITE, "Boil something slowly.", timeout_secs=0.05),
]


class LabConfig(ConnectorConfig):
    bench: str = "a"


class LabConnector:
    """A connector whose tools are carried out by the test's dispatcher."""

    def __init__(self, name: str = "lab", tools: list[ToolSpec] | None = None) -> None:
        self._tools = TOOLS if tools is None else tools
        self.spec = ConnectorSpec(
            name=name, title=name, description=name, version="1", config_model=LabConfig,
            default_realm="development",
        )  # fmt: skip

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> LabConfig:
        return read_config(LabConfig, config)

    def tools(self, config: BaseModel) -> list[ToolSpec]:
        return self._tools

    async def open(self, config: BaseModel, context: SessionContext) -> Any:
        raise AssertionError("the dispatcher of the test carries calls out")


class Recorder(OneByOne):
    """A dispatcher that keeps what it is given and answers what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ToolRequest] = []
        self.abandoned: list[ToolRequest] = []
        self.answer: Callable[[ToolRequest], Any] = lambda request: {"done": request.tool}
        self.before: Callable[[ToolRequest], Any] | None = None

    async def call(self, request: ToolRequest) -> ToolOutcome:
        self.requests.append(request)
        if self.before is not None:
            await self.before(request)
        value = self.answer(request)
        if isinstance(value, Exception):
            raise value
        if isinstance(value, ToolOutcome):
            return value
        return ToolOutcome(tool_call_id=request.tool_call_id, ok=True, value=value, usage_ms=1.5)

    async def abandon(self, calls: Any) -> None:
        self.abandoned.extend(calls)

    @property
    def tools(self) -> list[str]:
        return [request.tool for request in self.requests]


class StillGraph:
    """Only says what it can do; the gates need no more."""

    capabilities = Capabilities(
        engine="basic", backing="none", cypher=True, kql=False, sql=False, time_series=False,
        schema_evolution=True, arrow_native=False, ingest=(), writers="one", vectors="none",
        byo_bucket=False, typed_columns=False, graph_registered=True,
    )  # fmt: skip


class StillSearch:
    """Finds nothing, and remembers within which realms it was asked to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, HybridQuery]] = []

    async def hybrid(self, org_id: UUID, realms: Any, query: HybridQuery) -> SearchHits:
        self.asked.append((realms, query))
        return SearchHits(hits=(), took_ms=0.0, space=None)


@dataclass
class AgentRow:
    """An agent as the gates read it."""

    name: str = "default"
    realms: tuple[str, ...] | None = None
    connectors: tuple[str, ...] | None = None
    approval_defaults: dict[Effect, str] = field(default_factory=dict)


@dataclass
class World:
    """An organisation with people, a source, and one process."""

    db: Database
    bell: Bell
    sources: SourceStore
    objects: ObjectStore
    settings: Settings
    org: UUID
    people: dict[str, Principal]
    dispatcher: Recorder
    search: StillSearch
    process: Gates
    events: list[tuple[EventType, dict[str, Any]]]
    source: Source | None = None

    def ctx(self, who: str = "member", run: UUID | None = None, **more: Any) -> CallContext:
        async def emit(event: EventType, data: Mapping[str, Any]) -> None:
            self.events.append((event, dict(data)))

        return CallContext(
            principal=self.people[who], run_id=run, request_id="req_1", emit=emit, **more
        )

    def told(self, event: EventType) -> list[dict[str, Any]]:
        return [data for type_, data in self.events if type_ is event]

    async def audited(self, **where: Any) -> list[AuditRecord]:
        found = await AuditLog(self.db).list(self.org, AuditFilter(**where), limit=200)
        return list(reversed(found))

    async def rows(self) -> list[ToolCallRow]:
        async with self.db.tenant(self.org) as connection:
            ids = await connection.fetch("SELECT id FROM tool_calls ORDER BY id")
        return [await self.process.calls.get(self.org, row["id"]) for row in ids]

    async def sql(self, statement: str, *args: Any) -> Any:
        async with self.db.tenant(self.org) as connection:
            return await connection.fetchval(statement, *args)

    async def set(self, **settings: Any) -> None:
        """Change the organisation's settings, seen at once."""
        await self.sql(
            "UPDATE organizations SET settings = $2 WHERE id = $1 RETURNING 1", self.org, settings
        )
        self.process.policy._active.expire(self.org)

    async def add_source(self, name: str, realm: str = "development", **more: Any) -> Source:
        new = NewSource(name=name, connector=more.pop("connector", "lab"), realm=realm, **more)
        source = await self.sources.create(self.people["owner"], new)
        self.process.catalog._snapshots.expire(self.org)
        return source


async def people_of(db: Database, org: UUID) -> dict[str, Principal]:
    people: dict[str, Principal] = {}
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, 'Acme')",
            org,
            f"org-{org.hex}",
        )
        for realm in ("development", "infrastructure", "default"):
            await connection.execute(
                "INSERT INTO realms (org_id, name) VALUES ($1, $2)", org, realm
            )
        for name in ("owner", "admin", "member", "colleague", "viewer"):
            role = Role.MEMBER if name == "colleague" else Role(name)
            person = Principal(user_id=new_id(), org_id=org, role=role)
            await connection.execute(
                "INSERT INTO users (id, org_id, email, roles) VALUES ($1, $2, $3, $4)",
                person.user_id, org, f"{name}@acme.test", [role.value],
            )  # fmt: skip
            people[name] = person
        await install_starters(connection, org)
    return people


def make_process(
    db: Database, bell: Bell, sources: SourceStore, objects: ObjectStore, settings: Settings,
    dispatcher: Any, search: Any, audit: AuditLog | None = None, key: bytes = bytes(32),
) -> Gates:  # fmt: skip
    """The gates of one process over the shared stores."""
    return open_gates(
        db, bell, settings, sources=sources, dispatcher=dispatcher, search=search,
        engine=StillGraph(), objects=objects, audit=audit, vault=Vault(key),
    )  # fmt: skip
