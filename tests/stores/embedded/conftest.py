"""Servers of a test's own, for tests that break them."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded, record, stop_embedded
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.endpoints import Endpoints
from tests.stores.embedded.probing import ALL, Start, settings_in


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings with a state folder of this test; whatever runs in it ends with the test."""
    settings = settings_in(tmp_path / "state")
    try:
        yield settings
    finally:
        await stop_embedded(settings)
        left = record.read(Layout(settings.state_dir))
        if left is not None:  # the sockets' folder of a supervisor that was killed
            shutil.rmtree(left.run_dir, ignore_errors=True)
        shutil.rmtree(settings.state_dir, ignore_errors=True)


@pytest.fixture
def start(own: Settings) -> Start:
    """Start servers in the test's folder: ``await start("postgres", "redis")``; none = all."""

    async def ensure(*names: str) -> Endpoints:
        want = frozenset(names) or ALL
        return await ensure_embedded(own, want, until_exit_of=os.getpid())

    return ensure
