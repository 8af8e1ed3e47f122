"""The secret of access tokens changes, replica by replica, and nobody is logged out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2 as httpx

from agentcy_ray.api.app import create_app
from agentcy_ray.api.services import Services, open_services
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.stores.secrets import resolve_secrets
from tests.api.platform import API, Platform, credentials, serve, tools

NEW = "the new secret of access tokens, long enough"


@asynccontextmanager
async def replica(
    platform: Platform, embedder: LocalEmbedder, **secrets: str
) -> AsyncGenerator[httpx.AsyncClient]:
    """A further replica of the platform, with secrets of its own."""
    given = platform.settings.model_dump(exclude_unset=True)
    settings = Settings.load({}, **{**given, **secrets})

    async def opener() -> Services:
        return await open_services(
            settings, platform.endpoints, dispatcher=dispatcher, embedder=embedder,
            embedders=OneEmbedder(embedder), check_source=check_source,
        )  # fmt: skip

    async with (
        tools(settings, platform.endpoints) as (dispatcher, check_source),
        serve(create_app(settings, opener)) as url,
        httpx.AsyncClient(base_url=url + API, timeout=60) as client,
    ):
        yield client


async def test_tokens_and_cursors_of_the_previous_secret_are_good_until_it_goes(
    platform: Platform, embedder: LocalEmbedder
) -> None:
    old = resolve_secrets(platform.settings).jwt_secret
    async with platform.client() as client:
        login = (await client.post("/auth/login", json=credentials("member"))).json()
        bearer = {"authorization": f"Bearer {login['token']}"}
        for number in range(3):
            made = await client.post(
                "/chat/conversations", json={"title": f"{number}"}, headers=bearer
            )
            assert made.status_code == 201, made.text
        page = (await client.get("/chat/conversations?limit=1", headers=bearer)).json()
    cursor = f"/chat/conversations?limit=1&cursor={page['next_cursor']}"

    # A replica that knows both: everybody goes on, and new tokens are of the new secret.
    async with replica(platform, embedder, jwt_secret=NEW, jwt_secret_previous=old) as client:
        assert (await client.get("/auth/me", headers=bearer)).status_code == 200
        second = await client.get(cursor, headers=bearer)
        assert second.status_code == 200
        assert second.json()["items"] != page["items"]
        renewed = await client.post("/auth/refresh", json={"refresh_token": login["refresh_token"]})
        assert renewed.status_code == 200, renewed.text
    fresh = {"authorization": f"Bearer {renewed.json()['token']}"}
    async with platform.client() as client:  # one that has not heard of the new secret yet
        assert (await client.get("/auth/me", headers=fresh)).status_code == 401
    # So the new secret is given to all as the previous one first.
    async with replica(platform, embedder, jwt_secret=old, jwt_secret_previous=NEW) as client:
        assert (await client.get("/auth/me", headers=fresh)).status_code == 200
        assert (await client.get("/auth/me", headers=bearer)).status_code == 200
    async with replica(platform, embedder, jwt_secret=NEW) as client:  # the old one is gone
        refused = await client.get("/auth/me", headers=bearer)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_invalid")
        assert (await client.get("/auth/me", headers=fresh)).status_code == 200
        stale = await client.get(cursor, headers=fresh)
        assert (stale.status_code, stale.json()["error"]["code"]) == (400, "cursor_invalid")
