from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import SecretStr

from agentcy_ray.context.kyma import KymaAddress, KymaClient, Patience
from tests.context.kyma.stub import Served, StubKyma, serving

QUICK = Patience(
    attempts=4, read_attempts=3, first_secs=0.001, most_secs=0.002, most_told_secs=0.01
)

Open = Callable[..., KymaClient]


@pytest.fixture(scope="session")
async def served() -> AsyncIterator[Served]:
    """One listener for all tests of the room; each puts its own stub behind it."""
    async with serving() as listening:
        yield listening


@pytest.fixture
def stub(served: Served) -> StubKyma:
    served.stub = StubKyma(served.url)
    return served.stub


@pytest.fixture
async def open_client(stub: StubKyma) -> AsyncIterator[Open]:
    """Make clients of the stub; they are closed at the end."""
    opened: list[KymaClient] = []

    def make(url: str | None = None, flight: str = "off", token: str = "devtok", **more: Any):
        address = KymaAddress(url or stub.url, flight, SecretStr(token))
        client = KymaClient.open(address, **({"patience": QUICK} | more))
        opened.append(client)
        return client

    yield make
    for client in opened:
        await client.close()


@pytest.fixture
def client(open_client: Open) -> KymaClient:
    return open_client()
