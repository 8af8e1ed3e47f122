"""Ingest workers: actors that claim sync jobs and run them.

The worker keeps a thread with an event loop of its own, started with the actor: Ray restarts a dead
actor by its constructor, and the job that it held is claimed again when its lease lapses.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import structlog

from agentcy_ray.core.settings import Settings

log = structlog.get_logger(__name__)


class IngestWorker:
    """Actor class. Runs one job at a time."""

    def __init__(self, name: str, embedders: list[str], kyma_writers: list[str]) -> None:
        self._name = name
        self._embedders = embedders
        self._kyma_writers = kyma_writers
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        threading.Thread(target=self._run, name="ingest", daemon=True).start()

    def ping(self) -> str:
        """The worker's name; answers while it is alive."""
        return self._name

    def drain(self) -> None:
        """Finish the job at hand, then claim no more."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except Exception:
            # A worker that cannot work must not look alive: end the process, Ray starts it anew.
            log.exception("ingest worker failed; its process is restarted")
            os._exit(1)

    async def _serve(self) -> None:
        from agentcy_ray.runtime.parts import open_ingest_worker

        worker: Any
        close: Any
        worker, close = await open_ingest_worker(
            Settings.load(), self._name, self._embedders, self._kyma_writers
        )
        try:
            await worker.run(self._stop)
        finally:
            await close()
