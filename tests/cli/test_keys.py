"""`agentcy keys` on an external database: from a key in a variable to one of a key service."""

from __future__ import annotations

import asyncio
import base64
import secrets
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from agentcy_ray.cli.main import build
from agentcy_ray.core.errors import ConfigError, ConflictError, SealBrokenError
from agentcy_ray.stores.keys.install import key_id_of
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.rewrap import PLACES
from agentcy_ray.stores.vault import Vault
from tests.conftest import MakeDatabase
from tests.stores.key_services import bao_server
from tests.stores.sealed_rows import SealedRows

OLD = b"o" * 32


@pytest.mark.requirement("CON-03")
async def test_keys_move_to_a_key_service_and_back(
    make_database: MakeDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await make_database()
    await migrate(url)
    db = await open_database(url, pool_max=2)
    rows = SealedRows(db)
    org_id = await rows.org()
    for place in PLACES:
        await rows.add(Vault(OLD), org_id, place, 3)
    common = {
        "AGENTCY_STATE_DIR": str(tmp_path / "s"), "DATABASE_URL": url,
        "JWT_SECRET": secrets.token_urlsafe(40),
    }  # fmt: skip

    async def keys(*words: str, **environment: str) -> Any:
        with monkeypatch.context() as patch:
            for name in ("ENCRYPTION_KEY", "KMS_KEY_URI", "KMS_KEY_URI_PREVIOUS"):
                patch.delenv(name, raising=False)
            for name, value in (common | environment).items():
                patch.setenv(name, value)
            words = ("keys", *words, "--json")
            done = await asyncio.to_thread(CliRunner().invoke, build(), words)
        if done.exception is not None:
            return done.exception
        return orjson.loads(done.stdout)

    install = {"ENCRYPTION_KEY": base64.b64encode(OLD).decode()}
    assert isinstance(await keys("rotate", "--new-key", **install), ConfigError)
    with bao_server(tmp_path) as bao:
        bao.post("secure/transit/keys/agentcy")
        service = {
            "KMS_KEY_URI": "vault://secure/transit/agentcy", "VAULT_ADDR": bao.url,
            "VAULT_TOKEN": bao.token,
        }  # fmt: skip
        moved = await keys("rotate", **service, **install)
        assert (moved["moved"], moved["current"], moved["other"]) == (9, 9, 0)
        assert await rows.key_ids() == {"vault://secure/transit/agentcy#v1"}
        bao.post("secure/transit/keys/agentcy/rotate")
        status = await keys(
            "status", **service
        )  # the install's key is gone; the service's is newer
        assert (status["key_id"][-3:], status["other"]) == ("#v2", 9)
        assert isinstance(await keys("forget", **service), ConflictError)
        back = {f"{name}_PREVIOUS" if name == "KMS_KEY_URI" else name: value
                for name, value in service.items()}  # fmt: skip
        assert (await keys("rotate", **back, **install))["moved"] == 9
    assert await rows.key_ids() == {key_id_of(OLD)}
    assert await rows.check(Vault(OLD)) == 9
    other = {"ENCRYPTION_KEY": base64.b64encode(b"x" * 32).decode()}
    refused = await keys("rotate", **other)
    assert isinstance(refused, SealBrokenError)
    assert refused.details["moved"] == 0
    assert sum(refused.details["broken"].values()) == 9
    assert await rows.check(Vault(OLD)) == 9
    await db.close()
