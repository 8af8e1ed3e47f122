"""The engines that the conformance suite runs against."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.endpoints import Endpoints

EXTERNAL = os.environ.get("NEO4J_TEST_URI")


ENGINES = ["basic-embedded", *(["basic-external"] if EXTERNAL else [])]
"""``NEO4J_TEST_URI`` (with ``_USER``, ``_PASSWORD``, ``_DATABASE``) adds a Neo4j server."""


@pytest.fixture(scope="session", params=ENGINES)
async def engine(
    request: pytest.FixtureRequest, settings: Settings, endpoints: Endpoints
) -> AsyncIterator[ContextEngine]:
    """An engine over a graph that other tests use too; keep apart by an organisation."""
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


@pytest.fixture
def org() -> UUID:
    """A fresh organisation, hence an empty graph."""
    return uuid4()
