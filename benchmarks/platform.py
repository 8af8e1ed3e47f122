"""A platform of its own for one benchmark: a fresh state folder, free ports, gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentcy_ray.cli.server import start_detached, stop_process
from agentcy_ray.core.settings import Settings
from agentcy_ray.serve.launch import Running

NO_LIMIT = 1_000_000_000
_LIMITS = {
    "rate_limit_user_rpm": NO_LIMIT,
    "rate_limit_org_rpm": NO_LIMIT,
    "sse_streams_per_user": 100_000,
}
"""One client is all the users of a benchmark: limits are counted as ever, and never reached."""


@contextmanager
def running_platform(**overrides: object) -> Iterator[tuple[Settings, Running]]:
    """Start everything, hand out settings and address, stop everything."""
    with tempfile.TemporaryDirectory(prefix="agb-") as folder:
        settings = Settings.load(
            agentcy_state_dir=Path(folder) / "s", agentcy_port=0, **{**_LIMITS, **overrides}
        )
        running = start_detached(settings)
        try:
            yield settings, running
        finally:
            stop_process(running.pid)
