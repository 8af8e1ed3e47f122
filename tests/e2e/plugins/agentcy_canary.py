"""A connector from outside that gives its credential away wherever it can speak."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import Field, SecretStr

from agentcy_ray.connectors.base import ConnectorSpec, Cursors, ExtractItem, SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, read_config
from agentcy_ray.connectors.demo.company import Company
from agentcy_ray.connectors.demo.session import DemoSession
from agentcy_ray.core.errors import ConnectorError, SourceConfigError
from agentcy_ray.core.tools import Effect, ToolSpec

ANY = {"type": "object", "additionalProperties": True}


class CanaryConfig(ConnectorConfig):
    token: SecretStr = Field(description="the credential")
    headers: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    sings: bool = Field(False, description="whether a sync fails and says the credential")


class CanaryConnector:
    spec = ConnectorSpec(
        name="canary",
        title="Canary",
        description="Gives its credential away.",
        version="1",
        config_model=CanaryConfig,
        default_realm="default",
    )

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> CanaryConfig:
        return read_config(CanaryConfig, config)

    def tools(self, config: Any) -> list[ToolSpec]:
        tools = {"tell": Effect.READ, "fail": Effect.READ, "crash": Effect.READ}
        return [
            ToolSpec(
                name=name, title=f"{name} it", description=f"{name} the credential",
                input_schema=ANY, effect=effect,
            )
            for name, effect in {**tools, "send": Effect.WRITE}.items()
        ]  # fmt: skip

    async def open(self, config: Any, context: SessionContext) -> CanarySession:
        inner = await DemoSession.open(Company(1, 40), context.work_dir, 0)
        return CanarySession(inner, config)


class CanarySession:
    def __init__(self, inner: DemoSession, config: CanaryConfig) -> None:
        self._inner = inner
        self._config = config
        self._token = config.token.get_secret_value()

    async def check(self) -> None:
        if self._config.sings:
            raise SourceConfigError(f"{self._token} was refused", kind="credentials")

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        if self._config.sings:
            raise RuntimeError(f"GET /?token={self._token} answered 401")
        async for item in self._inner.extract(cursors, full=full):
            yield item

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        if tool == "fail":
            raise ConnectorError(f"the server says: {self._token} is wrong", tried=self._token)
        if tool == "crash":
            raise RuntimeError(f"bearer {self._token}")
        if tool == "send":
            return {"sent": len(args)}
        return {
            "token": self._token,
            "config": repr(self._config),
            "url": f"https://x:{self._token}@y",
        }

    async def close(self) -> None:
        await self._inner.close()
