"""Two replicas of the API over the same stores: one login, one count of requests and streams."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2 as httpx
import pytest

from agentcy_ray.api.app import create_app
from agentcy_ray.api.services import Services, open_services
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from tests.api.platform import API, Platform, credentials, serve, tools

USER_RPM, STREAMS = 40, 3
TAIL = "/policies/audit/stream"
"""A stream without an end."""


@dataclass
class Pair:
    """The base URLs of two replicas."""

    urls: tuple[str, str]

    @asynccontextmanager
    async def as_(self, who: str) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
        """Clients of both, with one login that the first one gave."""
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(httpx.AsyncClient(base_url=url + API, timeout=30))
                for url in self.urls
            ]
            answer = await clients[0].post("/auth/login", json=credentials(who))
            assert answer.status_code == 200, answer.text
            for client in clients:
                client.headers["authorization"] = f"Bearer {answer.json()['token']}"
                client.headers["x-refresh"] = answer.json()["refresh_token"]
            yield clients[0], clients[1]


@pytest.fixture(scope="module")
async def pair(platform: Platform, embedder: LocalEmbedder) -> AsyncIterator[Pair]:
    settings = platform.settings.model_copy(
        update={
            "rate_limit_user_rpm": USER_RPM,
            "sse_streams_per_user": STREAMS,
            "redis_prefix": f"pair-{secrets.token_hex(4)}",
        }
    )
    async with AsyncExitStack() as stack:

        async def opener() -> Services:
            dispatcher, check_source = await stack.enter_async_context(
                tools(settings, platform.endpoints)
            )
            return await open_services(
                settings, platform.endpoints, dispatcher=dispatcher, embedder=embedder,
                check_source=check_source,
            )  # fmt: skip

        urls = [
            await stack.enter_async_context(serve(create_app(settings, opener))) for _ in range(2)
        ]
        yield Pair((urls[0], urls[1]))


@pytest.mark.requirement("API-02")
async def test_one_login_is_good_at_every_replica_until_it_ends_at_any(pair: Pair) -> None:
    async with pair.as_("member") as (first, second):
        for client in (first, second) * 5:
            assert (await client.get("/auth/me")).json()["user"]["email"] == "member@acme.test"
        fresh = await second.post(
            "/auth/refresh", json={"refresh_token": first.headers["x-refresh"]}
        )
        assert fresh.status_code == 200
        again = {"authorization": f"Bearer {fresh.json()['token']}"}
        for client in (first, second):
            assert (await client.get("/auth/ping", headers=again)).status_code == 200
        assert (await second.post("/auth/logout", headers=again)).status_code == 204
        # The other one hears of it by the bell, and sees it after 5 s at the latest.
        async with asyncio.timeout(60):
            while (await first.get("/auth/ping", headers=again)).status_code != 401:
                pass


@pytest.mark.requirement("API-06")
async def test_a_users_requests_are_counted_over_both(pair: Pair) -> None:
    async with pair.as_("colleague") as (first, second):
        statuses: list[int] = []
        for _ in range(USER_RPM):
            for client in (first, second):
                refused = await client.get("/auth/ping")
                statuses.append(refused.status_code)
        # A token comes back each 1.5 s while this runs.
        assert USER_RPM <= statuses.count(200) < 2 * USER_RPM
        assert statuses.count(200) + statuses.count(429) == 2 * USER_RPM
        refused = next(
            answer
            for answer in [await first.get("/auth/me") for _ in range(USER_RPM)]
            if answer.status_code == 429
        )
        error = refused.json()["error"]
        assert (error["code"], error["details"]["limit"]) == ("rate_limited", USER_RPM)
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert refused.headers["x-ratelimit-limit"] == str(USER_RPM)
        assert refused.headers["x-ratelimit-remaining"] == "0"
        assert 1 <= int(refused.headers["x-ratelimit-reset"]) <= 60
    async with pair.as_("admin") as (first, _):
        assert (await first.get("/auth/ping")).status_code == 200  # others are not held up


async def test_a_users_streams_are_counted_over_both_and_freed_when_they_end(pair: Pair) -> None:
    async with pair.as_("owner") as (first, second), AsyncExitStack() as open_ones:
        last = AsyncExitStack()
        for number, client in enumerate((first, second, first)):
            keeper = last if number == 2 else open_ones
            stream = await keeper.enter_async_context(client.stream("GET", TAIL))
            assert stream.status_code == 200
        for client in (first, second):
            refused = await client.get(TAIL)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "quota_exceeded"
            assert int(refused.headers["retry-after"]) >= 1
        await last.aclose()
        async with asyncio.timeout(60):
            status = 429
            while status == 429:
                async with second.stream("GET", TAIL) as stream:
                    status = stream.status_code
        assert status == 200
