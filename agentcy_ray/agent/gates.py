"""The gates of one process, put together: what the API and the agent loop both hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentcy_ray.agent.approvals import Approvals
from agentcy_ray.agent.artifacts import Artifacts
from agentcy_ray.agent.backend import Backend
from agentcy_ray.agent.builtins import Builtins, Search
from agentcy_ray.agent.catalog import Catalog
from agentcy_ray.agent.direct_calls import DirectCalls
from agentcy_ray.agent.dispatch import Dispatcher
from agentcy_ray.agent.gateway import Gateway
from agentcy_ray.agent.ledger import Ledger
from agentcy_ray.agent.metatools import MetaTools
from agentcy_ray.agent.tool_calls import ToolCallStore
from agentcy_ray.agent.tool_meters import ToolMeters
from agentcy_ray.agent.tool_results import ResultShaper
from agentcy_ray.agent.tool_vectors import ToolVectors
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.redaction import Redactor, secrets_of
from agentcy_ray.core.settings import Settings
from agentcy_ray.policy.service import PolicyService
from agentcy_ray.retrieval.embedder import Embedder
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.objects import ObjectStore
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.vault import Vault


@dataclass(frozen=True)
class Gates:
    """Everything that stands between a caller and a tool. Open it with ``open_gates``."""

    policy: PolicyService
    audit: AuditLog
    approvals: Approvals
    catalog: Catalog
    calls: ToolCallStore
    artifacts: Artifacts
    gateway: Gateway
    meta: MetaTools
    direct: DirectCalls

    async def close(self) -> None:
        """Finish effects in flight, write their audit entries, stop listening."""
        await self.direct.close()
        await self.gateway.close()
        await self.policy.close()
        await self.audit.close()


def open_gates(
    db: Database,
    bell: Bell,
    settings: Settings,
    *,
    sources: SourceStore,
    dispatcher: Dispatcher,
    search: Search,
    engine: ContextEngine,
    objects: ObjectStore,
    embedder: Embedder | None = None,
    audit: AuditLog | None = None,
    metrics: Metrics | None = None,
    vault: Vault | None = None,
    secret_values: Iterable[str] = (),
) -> Gates:
    """Put the gates together; nothing is read or started before the first call.

    Args:
        db: the database, shared with whoever opened it.
        bell: wake-ups of this process.
        settings: time-outs, bounds, and secrets that results must not show.
        sources: where the catalog's tools come from.
        dispatcher: executes calls of connectors.
        search: behind ``rag.search``.
        engine: behind the ``context`` tools.
        objects: keeps artifacts.
        embedder: lets tools be found by meaning; without it by letters alone.
        audit: shared with other writers of the process; a new one when None.
        metrics: of the process; new ones, which nobody reads, when None.
        vault: seals arguments that hold secrets, so that a direct call which waits for an approval
            outlives its process; without it such a call does not.
        secret_values: further secrets that results must not show, such as generated ones.
    """
    policy = PolicyService(db, bell, settings)
    audit = audit or AuditLog(db, bell, commits=metrics.audit_commit if metrics else None)
    approvals = Approvals(db, bell, settings, policy, audit)
    artifacts, calls = Artifacts(db, objects), ToolCallStore(db)
    redactor = Redactor([*secrets_of(settings), *secret_values])
    builtins = Builtins(search, engine, artifacts)
    vectors = ToolVectors(embedder, db) if embedder else None
    catalog = Catalog(sources, bell, builtins.specs(), vectors)
    gateway = Gateway(
        catalog=catalog,
        policy=policy,
        approvals=approvals,
        ledger=Ledger(calls, audit, redactor, vault),
        backend=Backend(dispatcher, builtins, settings),
        builtins=builtins,
        results=ResultShaper(artifacts, redactor, settings),
        settings=settings,
        meters=ToolMeters(metrics or Metrics()),
    )
    return Gates(
        policy=policy,
        audit=audit,
        approvals=approvals,
        catalog=catalog,
        calls=calls,
        artifacts=artifacts,
        gateway=gateway,
        meta=MetaTools(db, gateway),
        direct=DirectCalls(db, gateway, approvals, calls, settings),
    )
