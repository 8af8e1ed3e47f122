from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.connectors.csv import CsvConnector
from agentcy_ray.connectors.demo import DemoConnector
from agentcy_ray.connectors.json import JsonConnector
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import BUILT_IN_REALMS, Principal, Role
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.vault import Vault


@dataclass(frozen=True)
class Org:
    """An organisation with its owner."""

    id: UUID
    owner: Principal

    def principal(self, **changes: Any) -> Principal:
        return self.owner.model_copy(update=changes)


@pytest.fixture(scope="session")
async def db(make_database):
    url = await make_database()
    await migrate(url)
    database = await open_database(url)
    yield database
    await database.close()


@pytest.fixture
async def make_org(db: Database):
    async def make() -> Org:
        org_id = new_id()
        async with db.system() as connection:
            await connection.execute(
                "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
                org_id, f"org-{secrets.token_hex(6)}",
            )  # fmt: skip
            await connection.executemany(
                "INSERT INTO realms (org_id, name) VALUES ($1, $2)",
                [(org_id, realm) for realm in BUILT_IN_REALMS],
            )
        return Org(org_id, Principal(user_id=new_id(), org_id=org_id, role=Role.OWNER))

    return make


@pytest.fixture
async def org(make_org) -> Org:
    return await make_org()


@pytest.fixture
def connector_settings(tmp_path: Path) -> Settings:
    files = tmp_path / "files"
    files.mkdir()
    return Settings.load({}, agentcy_state_dir=tmp_path / "state", source_file_roots=(str(files),))


@pytest.fixture
def files(connector_settings: Settings) -> Path:
    """The one folder that sources may name."""
    return Path(connector_settings.source_file_roots[0])


@pytest.fixture
def vault() -> Vault:
    return Vault(secrets.token_bytes(32))


@pytest.fixture
def registry(connector_settings: Settings) -> Registry:
    return Registry([CsvConnector(), JsonConnector(), DemoConnector()], connector_settings)


@pytest.fixture
def make_store(db: Database, vault: Vault, registry: Registry) -> Callable[..., SourceStore]:
    """A store over this test's database and vault; another registry may be handed in."""

    def make(registry: Registry = registry) -> SourceStore:
        return SourceStore(db, vault, registry)

    return make


@pytest.fixture
def store(make_store) -> SourceStore:
    return make_store()
