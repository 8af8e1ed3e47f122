"""A session on the made-up company."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import aclosing
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentcy_ray.connectors.base import Checkpoint, Cursors, ExtractItem, Mode, Progress
from agentcy_ray.connectors.demo.company import Company, Entity
from agentcy_ray.connectors.demo.ledger import Ledger
from agentcy_ray.connectors.records import BatchBuilder
from agentcy_ray.connectors.threads import pull
from agentcy_ray.core.errors import ConnectorError, ToolNotFoundError
from agentcy_ray.core.tools import Fate, Probe

STREAM = "company"
_REMEMBERED = 4096


class DemoSession:
    """Reads the company, looks records up in it, and writes down what was done to it."""

    def __init__(self, company: Company, ledger: Ledger, latency_secs: float) -> None:
        self._company = company
        self._ledger = ledger
        self._latency_secs = latency_secs
        self._writing = asyncio.Lock()
        self._record = lru_cache(_REMEMBERED)(self._described)

    @classmethod
    async def open(cls, company: Company, work_dir: Path, latency_secs: float) -> DemoSession:
        """Open a session whose ledger lies in ``work_dir``."""
        return cls(company, await asyncio.to_thread(Ledger, work_dir), latency_secs)

    async def check(self) -> None:
        """Nothing can be out of reach."""

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        """The whole company, or nothing when it has not changed since the cursor."""
        company, deleted = self._company, frozenset(self._ledger.deleted)
        cursor = {"seed": company.seed, "entities": company.entities, "deleted": len(deleted)}
        if not full and cursors.get(STREAM) == cursor:
            yield Mode(full=False, note="the company has not changed")
            return
        yield Mode(full=True)
        async with aclosing(pull(_rows(company, deleted))) as items:
            async for item in items:
                yield item
        yield Checkpoint(STREAM, cursor)

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Run a tool after the configured latency.

        Raises:
            ConnectorError: no such record.
            ToolNotFoundError: no such tool.
        """
        if self._latency_secs:
            await asyncio.sleep(self._latency_secs)
        if tool == "lookup":
            external_id = str(args["id"])
            restarts = self._ledger.restarts.get(external_id, 0)
            return {**self._record(external_id), "restarts": restarts}
        if tool not in {"restart_service", "delete_record"}:
            raise ToolNotFoundError(f"the demo company offers no tool {tool!r}", tool=tool)
        async with self._writing:
            answer = await asyncio.to_thread(self._ledger.seen, idempotency_key)
            if answer is not None:
                return answer
            target = self._find(str(args["service" if tool == "restart_service" else "id"]))
            if tool == "restart_service" and target.kind.label != "Service":
                raise ConnectorError(f"{target.external_id!r} is no service; name one: service-0")
            answer = await asyncio.to_thread(
                self._ledger.record, tool, target.external_id, idempotency_key
            )
            self._record.cache_clear()
            return answer

    async def probe(self, tool: str, args: Mapping[str, Any], *, idempotency_key: str) -> Probe:
        """Look the key up in the ledger, which knows every effect there was."""
        answer = await asyncio.to_thread(self._ledger.seen, idempotency_key)
        if answer is None:
            return Probe(fate=Fate.NOT_DONE)
        return Probe(fate=Fate.DONE, result=answer)

    async def close(self) -> None:
        """Nothing is held."""

    def _find(self, external_id: str) -> Entity:
        entity = self._company.find(external_id)
        if entity is None or external_id in self._ledger.deleted:
            raise ConnectorError(
                f"the demo company has no record {external_id!r}; ids look like service-0"
            )
        return entity

    def _described(self, external_id: str) -> dict[str, Any]:
        """What ``lookup`` says of a record, but for what its tools did."""
        entity = self._find(external_id)
        return {
            "id": entity.external_id,
            "label": entity.kind.label,
            "name": entity.name,
            "realm": entity.kind.realm,
            **entity.properties,
            "links": [
                {"type": edge, "id": target.external_id}
                for edge, target in self._company.links(entity)
                if target.external_id not in self._ledger.deleted
            ],
        }


def _rows(company: Company, deleted: frozenset[str]) -> Generator[ExtractItem, None, None]:
    nodes, edges, documents = (
        BatchBuilder("nodes"),
        BatchBuilder("edges"),
        BatchBuilder("documents"),
    )
    for entity in company.all():
        if entity.external_id in deleted:
            continue
        kind = entity.kind
        if batch := nodes.add(
            labels=[kind.label],
            external_id=entity.external_id,
            name=entity.name,
            properties=entity.properties,
            realm=kind.realm,
        ):
            yield batch
            yield Progress(entity.number, company.entities, "entities")
        for edge, target in company.links(entity):
            if target.external_id not in deleted and (
                batch := edges.add(
                    src_label=kind.label,
                    src_external_id=entity.external_id,
                    src_realm=kind.realm,
                    type=edge,
                    dst_label=target.kind.label,
                    dst_external_id=target.external_id,
                    dst_realm=target.kind.realm,
                    properties={},
                )
            ):
                yield batch
        if (text := company.text(entity)) and (
            batch := documents.add(
                label=kind.label,
                external_id=entity.external_id,
                text=text,
                media_type="text/markdown",
                realm=kind.realm,
            )
        ):
            yield batch
    for builder in (nodes, edges, documents):
        if batch := builder.flush():
            yield batch
