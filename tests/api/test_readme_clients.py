"""The client scripts of the README, run as they stand there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from agentcy_ray.cli.main import build
from tests.api.platform import PASSWORD, Platform

README = Path(__file__).parents[2] / "README.md"


def scripts() -> list[str]:
    section = README.read_text().split("### Clients that you have already")[1].split("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.mark.requirement("API-07")
async def test_the_scripts_of_the_readme_work_with_the_token_of_the_command_line(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets.json").write_bytes(orjson.dumps({"admin_password": PASSWORD}))
    monkeypatch.setenv("AGENTCY_URL", platform.url)
    monkeypatch.setenv("AGENTCY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ADMIN_EMAIL", "owner@acme.test")
    told = await asyncio.to_thread(CliRunner().invoke, build(), ["token"])
    assert told.exit_code == 0, told.output
    token = told.stdout.strip()
    surroundings = {
        **os.environ, "OPENAI_BASE_URL": f"{platform.url}/v1", "OPENAI_API_KEY": token,
        "ANTHROPIC_BASE_URL": platform.url, "ANTHROPIC_API_KEY": token,
    }  # fmt: skip

    async def run(script: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, env=surroundings,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, err.decode()
        return out.decode()

    by_openai, by_anthropic = await asyncio.gather(*(run(script) for script in scripts()))
    assert "models: agent:" in by_openai
    assert "Offline answer (retrieval only)." in by_openai
    assert "vectors of 384 numbers" in by_openai
    assert "Offline answer (retrieval only)." in by_anthropic
    assert "end_turn" in by_anthropic
