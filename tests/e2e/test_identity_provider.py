"""Login at a real identity provider, which is a process of its own that others have written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2 as httpx
import pytest

from agentcy_ray.identity.oidc_issuer import WELL_KNOWN
from agentcy_ray.identity.oidc_login import CALLBACK
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.conftest import embedder
from tests.api.platform import Platform, open_platform, with_database
from tests.conftest import MakeDatabase

__all__ = ["embedder"]

pytestmark = [pytest.mark.requirement("AUTH-06"), pytest.mark.requirement("AUTH-08")]

ROOT = Path(__file__).parents[2]
PROVIDERS = Path(__file__).parent / "identity_providers"
NODE_MODULES = ROOT / ".oidc-provider"
"""Where ``make test-oidc`` installs the provider of npm."""
PUBLIC_URL = "http://agentcy.test:8080"
"""What browsers would call the platform; the tests reach it by its port instead."""


@dataclass
class Provider:
    """A provider that runs, and how we are known there."""

    url: str
    secret: str | None


@contextmanager
def running(*command: str, secret: str | None) -> Iterator[Provider]:
    """Start a provider, which prints its URL first."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), url
            yield Provider(url, secret)
        finally:
            process.kill()


@pytest.fixture(
    scope="module", params=["authlib", pytest.param("oidc-provider", marks=pytest.mark.oidc)]
)
def provider(request: pytest.FixtureRequest) -> Iterator[Provider]:
    back = PUBLIC_URL + CALLBACK
    if request.param == "authlib":
        module = "tests.e2e.identity_providers.authlib_server"
        with running(sys.executable, "-m", module, back, secret=None) as started:
            yield started
        return
    if not (NODE_MODULES / "node_modules").exists():
        pytest.skip("`make test-oidc` installs this provider and runs the test with it")
    script = str(PROVIDERS / "oidc_provider.mjs")
    secret = "s3cret:with/odd%chars"
    with running("node", script, str(NODE_MODULES), back, secret=secret) as started:
        yield started


@pytest.fixture(scope="module")
async def platform(
    provider: Provider,
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Platform]:
    own = with_database(endpoints, await make_database())
    async with open_platform(
        own, tmp_path_factory.mktemp("oidc"), embedder, agentcy_public_url=PUBLIC_URL,
        auth_provider=("local", "oidc"), oidc_discovery_url=provider.url + WELL_KNOWN,
        oidc_client_id="agentcy", oidc_client_secret=provider.secret,
    ) as opened:  # fmt: skip
        yield opened


class Forms(HTMLParser):
    """The last form of a page: where it goes, and its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action, self.fields = found.get("action", ""), {}
        if tag == "input" and found.get("name"):
            self.fields[found["name"]] = found.get("value", "")


async def to_callback(
    platform: Platform, browser: httpx.AsyncClient, user: str, *, start: str | None = None
) -> str:
    """Log in at the provider and consent; where the provider sends the browser at the end."""
    if start is None:
        begun = await browser.get("/auth/oidc/start", params={"return_to": "/console"})
        assert begun.status_code == 302, begun.text
        start = begun.headers["location"]
    async with httpx.AsyncClient(timeout=30) as outside:
        answer = await outside.get(start)
        for _ in range(12):
            if answer.is_redirect:
                where = urljoin(str(answer.url), answer.headers["location"])
                if where.startswith(PUBLIC_URL):
                    parts = urlsplit(where)
                    return f"{platform.url}{parts.path}?{parts.query}"
                answer = await outside.get(where)
                continue
            form = Forms(answer.text)
            known = {"login": user, "password": "correct"}
            data = {name: known.get(name, value) for name, value in form.fields.items()}
            answer = await outside.post(urljoin(str(answer.url), form.action), data=data)
    raise AssertionError(f"no way back from {answer.url}: {answer.text[:500]}")


async def test_who_logs_in_at_the_provider_is_logged_in_here(platform: Platform) -> None:
    users = []
    for _ in range(2):
        async with platform.client() as browser:
            back = await to_callback(platform, browser, "alice")
            ended = await browser.get(back)
            assert ended.status_code == 302, ended.text
            assert ended.headers["location"] == f"{PUBLIC_URL}/console"
            tokens = (await browser.post("/auth/refresh")).json()
            header = {"authorization": f"Bearer {tokens['token']}"}
            me = (await browser.get("/auth/me", headers=header)).json()
            assert (me["user"]["email"], me["role"], me["org"]["name"]) == (
                "alice@acme.test", "member", "default",
            )  # fmt: skip
            users.append(me["user"]["id"])
            reused = await browser.get(back)
            assert reused.json()["error"]["code"] == "oauth_state_invalid"
    assert users[0] == users[1]
    async with platform.client() as owner:
        local = {"email": "owner@acme.test", "password": "correct horse battery"}
        assert (await owner.post("/auth/login", json=local)).status_code == 200


@pytest.mark.attack
async def test_the_provider_itself_refuses_a_code_of_another_login(platform: Platform) -> None:
    """PKCE as the provider enforces it: the verifier is that of the login that asks."""
    async with platform.client() as browser, platform.client() as other:
        mine = await to_callback(platform, browser, "alice")
        theirs = await to_callback(platform, other, "mallory")
        stolen = parse_qs(urlsplit(theirs).query)["code"][0]
        own = parse_qs(urlsplit(mine).query)
        injected = mine.replace(own["code"][0], stolen)
        answer = await browser.get(injected)
        assert answer.status_code == 401, answer.text
        assert answer.json()["error"]["code"] == "invalid_credentials"
        assert "agentcy_refresh" not in browser.cookies


@pytest.mark.attack
async def test_without_its_challenge_a_login_ends_nowhere(platform: Platform) -> None:
    async with platform.client() as browser:
        begun = await browser.get("/auth/oidc/start")
        parts = urlsplit(begun.headers["location"])
        asked = {k: v[0] for k, v in parse_qs(parts.query).items() if "challenge" not in k}
        bare = httpx.URL(f"{parts.scheme}://{parts.netloc}{parts.path}", params=asked)
        refused = None
        try:
            back = await to_callback(platform, browser, "alice", start=str(bare))
            refused = await browser.get(back)
        except AssertionError:
            return  # the provider has refused to begin
        assert refused.status_code == 401
        assert "agentcy_refresh" not in browser.cookies
