"""The engines that the conformance suite runs against."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from agentcy_ray.context.advanced import AdvancedEngine
from agentcy_ray.context.advanced.databases import Databases
from agentcy_ray.context.advanced.planners import PLANNERS
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.factory import open_engine, open_kyma
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.endpoints import Endpoints

EXTERNAL = os.environ.get("NEO4J_TEST_URI")
KYMA = os.environ.get("KYMA_TEST_URL")

ENGINES = [
    "basic-embedded",
    *(["basic-external"] if EXTERNAL else []),
    "advanced-embedded",
    *(["advanced-external"] if KYMA else []),
]
"""``NEO4J_TEST_URI`` (with ``_USER``, ``_PASSWORD``, ``_DATABASE``) adds a Neo4j server,
``KYMA_TEST_URL`` (with ``KYMA_TEST_FLIGHT_URL``, ``KYMA_TEST_TOKEN``) a kyma."""


@pytest.fixture(scope="session", params=ENGINES)
async def engine(
    request: pytest.FixtureRequest, settings: Settings, endpoints: Endpoints
) -> AsyncIterator[ContextEngine]:
    """An engine over a graph that other tests use too; keep apart by an organisation."""
    if request.param.startswith("advanced"):
        opened = await _advanced(settings, external=request.param == "advanced-external")
        yield opened
        await opened.close()
        return
    if request.param == "basic-external":
        settings = settings.model_copy(
            update={"neo4j_uri": EXTERNAL, "neo4j_user": os.environ.get("NEO4J_TEST_USER", "neo4j")}
        )
        endpoints = replace(
            endpoints,
            neo4j_uri=EXTERNAL or "",
            neo4j_user=settings.neo4j_user,
            neo4j_password=os.environ.get("NEO4J_TEST_PASSWORD", ""),
            neo4j_database=os.environ.get("NEO4J_TEST_DATABASE", "neo4j"),
            neo4j_reader_user=None,
            neo4j_reader_password=None,
        )
    opened = open_engine(settings, endpoints)
    await opened.prepare()
    yield opened
    await opened.close()


async def _advanced(settings: Settings, *, external: bool) -> AdvancedEngine:
    if external:
        endpoints = Endpoints(
            kyma_url=KYMA or "",
            kyma_flight_url=os.environ.get("KYMA_TEST_FLIGHT_URL"),
            kyma_token=os.environ.get("KYMA_TEST_TOKEN", ""),
        )
    else:
        endpoints = await ensure_embedded(settings, frozenset({"kyma"}), until_exit_of=os.getpid())

    async def nobody() -> None:
        return None

    store = Store(open_kyma(settings, endpoints), Databases("conformance", nobody))
    return AdvancedEngine(store, PLANNERS, embedded=not external, own_bucket=external)


Pair = tuple[ContextEngine, ContextEngine]


@pytest.fixture(scope="session")
async def pair(settings: Settings, endpoints: Endpoints) -> AsyncIterator[Pair]:
    """The Basic and the Advanced engine, both embedded, to be asked the same."""
    basic = open_engine(settings, endpoints)
    await basic.prepare()
    advanced = await _advanced(settings, external=False)
    yield basic, advanced
    await advanced.close()
    await basic.close()


@pytest.fixture
def org() -> UUID:
    """A fresh organisation, hence an empty graph."""
    return uuid4()
