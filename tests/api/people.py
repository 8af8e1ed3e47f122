"""People who join by invites, so that a test may change and end them."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from tests.api.platform import PASSWORD, Platform


@dataclass
class Person:
    """Somebody who has joined, with their client."""

    id: str
    email: str
    client: httpx.AsyncClient

    async def key(self, *permissions: str, **more: Any) -> httpx.AsyncClient:
        """A client with an API key of theirs."""
        return with_key(self.client, (await make_key(self.client, *permissions, **more))["key"])


async def invite(platform: Platform, email: str, role: str = "member", who: str = "owner") -> str:
    """The token of an invite's link."""
    owner = await platform.as_(who)
    answer = await owner.post("/org/invites", json={"email": email, "role": role})
    assert answer.status_code == 201, answer.text
    return answer.json()["link"].partition("#invite=")[2]


async def join(platform: Platform, role: str = "member", who: str = "owner") -> Person:
    """Somebody new in the organisation of ``who``."""
    email = f"{secrets.token_hex(6)}@acme.test"
    token = await invite(platform, email, role, who)
    client = platform.client()
    body = {"email": email, "password": PASSWORD, "name": "New", "invite_token": token}
    answer = await client.post("/auth/register", json=body)
    assert answer.status_code == 201, answer.text
    joined = answer.json()
    client.headers["authorization"] = f"Bearer {joined['token']}"
    platform.clients[email] = client  # closed with the others
    return Person(joined["user"]["id"], email, client)


async def make_key(client: httpx.AsyncClient, *permissions: str, **more: Any) -> dict[str, Any]:
    """A new API key of whoever ``client`` is."""
    body = {"name": "test", "permissions": list(permissions), **more}
    answer = await client.post("/api-keys", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def with_key(client: httpx.AsyncClient, key: str) -> httpx.AsyncClient:
    """A client of the same server that sends a key."""
    return httpx.AsyncClient(base_url=client.base_url, timeout=60, headers={"x-api-key": key})
