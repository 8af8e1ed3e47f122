"""An embedded Advanced engine in a process of its own, and a ``ContextEngine`` over it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from agentcy_ray.context.advanced import AdvancedEngine
from agentcy_ray.context.advanced.databases import Databases
from agentcy_ray.context.advanced.planners import PLANNERS
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.kyma.address import KymaAddress
from agentcy_ray.context.kyma.client import KymaClient
from agentcy_ray.core.ids import new_id

DATABASE = "kyma"


@dataclass(frozen=True)
class Kyma:
    """A running process; ``org_id`` is the organisation whose database is ``DATABASE``."""

    http_url: str
    flight_url: str
    data: Path
    client: KymaClient
    engine: AdvancedEngine
    org_id: UUID


@asynccontextmanager
async def running_kyma(slice_bytes: int = 8 << 20, in_flight: int = 4) -> AsyncGenerator[Kyma]:
    """A process on an empty folder, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="agb-") as name:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agentcy_ray.devkyma", "--data", name,
            "--http-port", "0", "--flight-port", "0", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            urls = json.loads(await process.stdout.readline())
            address = KymaAddress(base_url=urls["http"], flight_url=urls["flight"])
            client = KymaClient.open(address, slice_bytes=slice_bytes, max_in_flight=in_flight)
            org_id = new_id()

            async def first() -> UUID:
                return org_id

            engine = AdvancedEngine(
                Store(client, Databases(DATABASE, first)), PLANNERS, embedded=True, own_bucket=False
            )
            try:
                yield Kyma(urls["http"], urls["flight"], Path(name), client, engine, org_id)
            finally:
                await client.close()
        finally:
            process.terminate()
            await process.wait()
