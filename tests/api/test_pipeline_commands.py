"""``agentcy pipelines``, ``sources``, ``ingest`` and ``query --arrow`` against a real API."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from agentcy_ray.cli.main import build
from tests.api.platform import PASSWORD, Platform
from tests.api.test_context_pipelines import published


@pytest.fixture
def agentcy(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command as the owner; gives what it printed as JSON."""
    (tmp_path / "secrets.json").write_bytes(orjson.dumps({"admin_password": PASSWORD}))
    monkeypatch.setenv("AGENTCY_URL", platform.url)
    monkeypatch.setenv("AGENTCY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ADMIN_EMAIL", "owner@acme.test")

    async def run(*words: str) -> Any:
        done = await asyncio.to_thread(CliRunner().invoke, build(), [*words, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        return orjson.loads(done.stdout)

    return run


async def test_a_file_of_lines_is_fed_to_a_pipeline_and_read_back_as_arrow(
    agentcy: Any, platform: Platform, tmp_path: Path
) -> None:
    made = await agentcy(
        "pipelines", "create", "stars", "--table", "nodes", "--realm", "data",
        "--map", "label==Star", "--map", "external_id=hip",
    )  # fmt: skip
    assert made["mapping"] == {"label": {"const": "Star"}, "external_id": "hip"}
    file = tmp_path / "stars.ndjson"
    file.write_text('{"hip": 1, "name": "Alpha", "mag": 0.5}\n{"hip": 2}\nbroken\n')
    for _ in range(2):
        said = await agentcy("ingest", "stars", str(file))
        assert (said["accepted"], said["rejected"], said["errors"][0]["line"]) == (2, 1, 3)
    await published(platform)
    (run,) = await agentcy("pipelines", "runs", "stars")
    assert (run["requests"], run["accepted"], run["published"]) == (1, 2, 1)
    target = tmp_path / "stars.arrow"
    query = "MATCH (s:Star) RETURN s.name AS name, s.mag AS mag ORDER BY name"
    told = await agentcy("query", query, "--realm", "data", "--arrow", str(target))
    table = pa.ipc.open_stream(target.read_bytes()).read_all()
    assert told["bytes"] == target.stat().st_size
    assert table.to_pydict() == {"name": ["2", "Alpha"], "mag": [None, 0.5]}
    key = await agentcy("pipelines", "token", "stars", "--secret")
    assert key["token"].startswith("ctx_")
    assert key["secret"].startswith("whsec_")
    tokens = await agentcy("pipelines", "list")
    assert "stars" in {each["name"] for each in tokens}
    assert await agentcy("pipelines", "remove", "stars") == {"removed": "stars"}


@pytest.mark.parametrize("purge", [[], ["--purge"]])
async def test_a_source_is_added_and_removed(
    agentcy: Any, platform: Platform, purge: list[str]
) -> None:
    folder = platform.roots / "removed"
    folder.mkdir(exist_ok=True)
    added = await agentcy("sources", "add", "gone", "files", "--set", f"root={folder}")
    assert added["id"] in {each["id"] for each in await agentcy("sources", "list")}
    done = await agentcy("sources", "remove", "gone", *purge)
    assert done["removed"] == "gone"
    assert (done["job_id"] is None) is not bool(purge)
    assert added["id"] not in {each["id"] for each in await agentcy("sources", "list")}
