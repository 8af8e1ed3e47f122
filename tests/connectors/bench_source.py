"""A connector whose source a test holds in its hand: it can be made to wait, fail and leak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, SecretStr

from agentcy_ray.connectors.base import ConnectorSpec, Cursors, ExtractItem, Mode, SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, read_config
from agentcy_ray.core.tools import Fate, Probe, ToolSpec


class BenchConfig(ConnectorConfig):
    token: SecretStr = Field(description="the secret that must not leak")
    flavour: str = Field("plain", description="anything")


@dataclass
class Bench:
    """What a test arranges, and what it finds afterwards."""

    opened: int = 0
    closed: int = 0
    open_error: Exception | None = None
    error: BaseException | None = None
    value: Any = "fine"
    go: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    effects: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call was stopped."""
    running: int = 0
    most: int = 0
    """Calls of ``wait`` that ran at once, at most."""


class BenchConnector:
    spec = ConnectorSpec(
        name="bench",
        title="Bench",
        description="A source on the test bench.",
        version="1",
        config_model=BenchConfig,
        default_realm="default",
    )

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> BenchConfig:
        return read_config(BenchConfig, config)

    def tools(self, config: Any) -> list[ToolSpec]:
        return []

    async def open(self, config: Any, context: SessionContext) -> BenchSession:
        self.bench.opened += 1
        if self.bench.open_error:
            raise self.bench.open_error
        return BenchSession(self.bench, config)


class BenchSession:
    def __init__(self, bench: Bench, config: BenchConfig) -> None:
        self._bench = bench
        self.config = config

    async def check(self) -> None:
        if self._bench.error:
            raise self._bench.error

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        yield Mode(full=True)

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        if tool == "flavour":
            return self.config.flavour
        if self._bench.error:
            raise self._bench.error
        if tool == "wait":
            self._bench.running += 1
            self._bench.most = max(self._bench.most, self._bench.running)
            self._bench.reached.set()
            try:
                await self._bench.go.wait()
            except asyncio.CancelledError:
                self._bench.stopped.append(tool)
                self._bench.stop.set()
                raise
            finally:
                self._bench.running -= 1
        self._bench.effects.append(tool)
        return self._bench.value

    async def probe(self, tool: str, args: Mapping[str, Any], *, idempotency_key: str) -> Probe:
        if tool in self._bench.effects:
            return Probe(fate=Fate.DONE, result=[self._bench.value, idempotency_key])
        return Probe(fate=Fate.NOT_DONE)

    async def close(self) -> None:
        self._bench.closed += 1
