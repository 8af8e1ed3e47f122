"""The governed path as it is served: loop, gates and stores here, connector sessions on Ray."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from agentcy_ray.agent.control import RunControl
from agentcy_ray.agent.loop import AgentLoop
from agentcy_ray.agent.profiles import AgentProfile
from agentcy_ray.agent.run_records import NewRun, Run
from agentcy_ray.api.services import Services
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.connectors.source_records import NewSource, Source
from agentcy_ray.core.ids import encode
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.llm.scripted import scripted_reference
from agentcy_ray.runtime import cluster
from agentcy_ray.runtime.cluster_config import load_cluster_config
from agentcy_ray.stores.embedded import ensure_embedded, stop_embedded
from agentcy_ray.stores.embedded.ports import choose

_COMPLETED = """
SELECT count(*) FROM run_events
WHERE run_id = ANY($1) AND type = 'tool_result' AND data->>'status' = 'completed'
"""
_AUDITED = """
SELECT count(*) FROM audit_log WHERE action = 'chat.tool.execute' AND context->>'run_id' = ANY($1)
"""


@dataclass(frozen=True)
class Governed:
    """Open services, somebody who may call, and a source to call."""

    services: Services
    owner: Principal
    source: Source
    loop: AgentLoop
    agent: AgentProfile
    audits: bool = True
    """Whether calls are witnessed; without it, the audit log must stay empty."""

    async def agent_runs(self, runs: int, turns: int, calls: int) -> float:
        """Results a minute of ``runs`` concurrent runs of ``turns`` turns of ``calls`` calls each.

        Counted from the moment that an executor has claimed the runs to the end of the last.

        Raises:
            RuntimeError: a run did not complete, or a call did not.
        """
        script = ">".join([f"demo.lookup*{calls}"] * turns)
        model = scripted_reference(
            tools=script, args={"demo.lookup": {"id": "service-0"}}, tokens=4, usage=100
        )
        claimed = await self.claimed_runs(runs, model)
        began = time.perf_counter()
        await asyncio.gather(*(self.loop.execute(run, RunControl()) for run in claimed))
        secs = time.perf_counter() - began
        await self._check([run.id for run in claimed], turns * calls)
        return runs * turns * calls / secs * 60

    async def claimed_runs(self, count: int, model: str) -> list[Run]:
        """Runs that wait to be executed here."""
        store = self.services.runs
        for _ in range(count):
            await store.start(
                self.owner,
                NewRun(
                    kind="task",
                    agent=self.agent,
                    model=model,
                    text="look it up",
                    request_id="req_benchmark",
                ),
            )
        claimed = await store.claim("benchmark", limit=count, lease_secs=120)
        assert len(claimed) == count
        return list(claimed)

    async def audited(self, run_ids: Sequence[UUID]) -> int:
        """Calls of these runs in the audit log."""
        async with self.services.db.tenant(self.owner.org_id) as connection:
            return await connection.fetchval(_AUDITED, [encode("run", item) for item in run_ids])

    async def _check(self, run_ids: Sequence[UUID], calls: int) -> None:
        """Every call completed, and has its audit entry if it is to have one."""
        ids = list(run_ids)
        async with self.services.db.tenant(self.owner.org_id) as connection:
            done = await connection.fetchval(_COMPLETED, ids)
        audited = await self.audited(ids)
        if done != len(ids) * calls or audited != (done if self.audits else 0):
            last = await self.services.run_log.read(self.owner.org_id, ids[0])
            raise RuntimeError(
                f"{done} of {len(ids) * calls} calls completed and {audited} are in the audit log; "
                f"the last events of the first run: {[event.data for event in last[-3:]]}"
            )


@asynccontextmanager
async def ungated(gated: Governed) -> AsyncIterator[Governed]:
    """The same cluster and stores with the gates off: no policies, and nothing is witnessed."""
    from agentcy_ray.serve.wiring import open_platform

    changed = {"agentcy_features_policies": False}
    services = await open_platform(gated.services.settings.model_copy(update=changed))
    try:
        services.gates.gateway.ledger.audit = _Forgetful(services.db)
        loop = services.executor(1).loop
        yield replace(gated, services=services, loop=loop, audits=False)
    finally:
        await services.close()


class _Forgetful(AuditLog):
    """Keeps nothing."""

    async def append(self, *entries: AuditEntry) -> UUID:
        return entries[-1].id


@asynccontextmanager
async def governed() -> AsyncIterator[Governed]:
    """Everything from nothing; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="agb-") as name:
        settings = Settings.load(
            agentcy_state_dir=Path(name) / "s", agentcy_host="127.0.0.1", database_pool_max=20
        )
        prepared = cluster.prepare(settings, choose([]))
        from agentcy_ray.runtime.foreman import Foreman
        from agentcy_ray.serve.wiring import open_platform, prepare_stores

        endpoints = await ensure_embedded(
            settings, frozenset({"postgres", "redis", "graph"}), until_exit_of=os.getpid()
        )
        await prepare_stores(settings, endpoints)
        await asyncio.to_thread(
            cluster.start, settings, load_cluster_config(settings.agentcy_cluster_config)
        )
        import ray

        foreman = ray.remote(Foreman).options(num_cpus=0).remote()
        try:
            await foreman.actors.remote()
            services = await open_platform(settings)
            try:
                yield await _furnished(services)
            finally:
                await services.close()
        finally:
            del foreman
            cluster.stop()
            prepared.reserved.release()
            await stop_embedded(settings)


async def _furnished(services: Services) -> Governed:
    async with services.db.system() as connection:
        row = await connection.fetchrow("SELECT id, org_id FROM users LIMIT 1")
    assert row is not None
    owner = Principal(user_id=row["id"], org_id=row["org_id"], role=Role.OWNER)
    source = await services.sources.create(
        owner, NewSource(name="demo", connector="demo", realm="default", config={})
    )
    agents = await services.agents.list(owner.org_id)
    executor = services.executor(1)
    return Governed(services, owner, source, executor.loop, agents[0])
