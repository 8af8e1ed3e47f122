"""The OIDC issuer as we see it: what it publishes of itself, its keys, its token endpoint.

What it publishes (OpenID Connect Discovery 1.0) is read when it is first needed and as often as the
keys are. The issuer that it names must be the configured one, so a document from elsewhere is
worth nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import structlog

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import AgentcyError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.jwks import RETRY_SECS, KeyRing
from agentcy_ray.stores.redis import RedisStore

log = structlog.get_logger(__name__)

MAX_BYTES = 256 * 1024
"""Of any answer of the issuer."""
WELL_KNOWN = "/.well-known/openid-configuration"
_FORM = {
    "content-type": "application/x-www-form-urlencoded;charset=UTF-8",
    "accept": "application/json",
}


@dataclass(frozen=True)
class Metadata:
    """What the issuer says of itself; empty texts for what it does not offer."""

    issuer: str
    jwks_url: str
    authorize_url: str = ""
    token_url: str = ""
    userinfo_url: str = ""
    secret_by: tuple[str, ...] = ()
    """Ways of authenticating at the token endpoint; empty = the default of the standard."""
    names_itself: bool = False
    """Whether its answers carry ``iss`` (RFC 9207)."""


class Issuer:
    """Reads metadata and keys of the configured issuer, over the guarded HTTP client."""

    def __init__(
        self,
        settings: Settings,
        http: httpx2.AsyncClient,
        redis: RedisStore,
        clock: Clock,
        seal_key: bytes,
    ) -> None:
        """Nothing is read yet.

        Args:
            settings: names the issuer; they have passed their checks.
            http: guarded, bounded by ``MAX_BYTES``; follows no redirect, since that would change
                who answers.
            redis: shares the keys between processes.
            clock: what ages are counted by.
            seal_key: seals what is shared.
        """
        self._settings = settings
        self._http = http
        self._redis = redis
        self._clock = clock
        self._seal_key = seal_key
        self._name: str | None = None  # it never changes, so requests do not wait for it again
        self._metadata: tuple[float, Metadata] | None = None
        self._failed: tuple[float, str] | None = None
        self._ring: KeyRing | None = None
        self._flight = asyncio.Lock()

    async def name(self) -> str:
        """The ``iss`` of its tokens.

        Raises:
            StoreUnavailableError: it is not configured, and cannot be read.
        """
        if self._name is None:
            self._name = self._settings.jwt_issuer or (await self.metadata()).issuer
        return self._name

    async def keys(self) -> KeyRing:
        """Its keys.

        Raises:
            StoreUnavailableError: where they lie is not configured, and cannot be read.
        """
        name = await self.name()
        if self._ring is None:  # only now: others may have come here meanwhile
            self._ring = KeyRing(
                name, self._read_keys, self._redis, self._clock,
                ttl_secs=self._settings.jwks_ttl_secs, seal_key=self._seal_key,
            )  # fmt: skip
        return self._ring

    async def metadata(self) -> Metadata:
        """What it publishes of itself, no older than its keys may be.

        Raises:
            StoreUnavailableError: it does not answer, or answers for another issuer.
        """
        settings, now = self._settings, self._clock.now().timestamp()
        if settings.oidc_discovery_url is None:
            return Metadata(settings.jwt_issuer or "", settings.jwks_url or "")
        async with self._flight:
            if self._metadata is not None and now - self._metadata[0] < settings.jwks_ttl_secs:
                return self._metadata[1]
            if self._failed is not None and now - self._failed[0] < RETRY_SECS:
                raise StoreUnavailableError(self._failed[1])
            try:
                found = self._understood(await self.get_json(settings.oidc_discovery_url))
            except StoreUnavailableError as error:
                self._failed = (now, error.message)
                log.warning("the OIDC issuer cannot be read", error=error.message)
                raise
            self._metadata, self._failed = (now, found), None
            return found

    async def get_json(self, url: str, *, bearer: str | None = None) -> dict[str, Any]:
        """A JSON object that the issuer publishes, or tells the holder of a token of its own.

        Raises:
            StoreUnavailableError: no connection, another status than 200, or no JSON object.
        """
        headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        request = self._http.build_request("GET", url, headers=headers)
        status, body = await self._send(request, "answer")
        if status != 200:
            raise _away(f"it answered {status} at {url}")
        return body

    async def post_form(
        self, url: str, body: str, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of a form's answer.

        Raises:
            StoreUnavailableError: no connection, a status of 500 or above, or no JSON object.
        """
        request = self._http.build_request(
            "POST", url, content=body.encode(), headers={**_FORM, **headers}
        )
        status, answer = await self._send(request, "tokens")
        if status >= 500:
            raise _away(f"its token endpoint answered {status}")
        return status, answer

    async def _read_keys(self) -> dict[str, Any]:
        return await self.get_json(self._settings.jwks_url or (await self.metadata()).jwks_url)

    async def _send(self, request: httpx2.Request, what: str) -> tuple[int, dict[str, Any]]:
        try:
            response = await self._http.send(request)
        except httpx2.HTTPError as error:
            raise _away(str(error) or type(error).__name__) from error
        except AgentcyError as error:  # the guard of the way out, or an answer without end
            raise _away(error.message) from error
        try:
            body = orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise _away(f"its {what} is no JSON (status {response.status_code})") from error
        if not isinstance(body, dict):
            raise _away(f"its {what} is no JSON object")
        return response.status_code, body

    def _understood(self, document: dict[str, Any]) -> Metadata:
        """The document when it is that of the configured issuer."""
        issuer, url = document.get("issuer"), self._settings.oidc_discovery_url or ""
        wanted = self._settings.jwt_issuer
        good = issuer == wanted if wanted else url == f"{str(issuer).rstrip('/')}{WELL_KNOWN}"
        if not isinstance(issuer, str) or not good:
            raise _away(
                f"{url} speaks for another issuer, {issuer!r}; correct OIDC_DISCOVERY_URL, or set "
                "JWT_ISSUER to that name if it is the right one"
            )
        ways = document.get("token_endpoint_auth_methods_supported")
        return Metadata(
            issuer=issuer,
            jwks_url=self._endpoint(document, "jwks_uri"),
            authorize_url=self._endpoint(document, "authorization_endpoint"),
            token_url=self._endpoint(document, "token_endpoint"),
            userinfo_url=self._endpoint(document, "userinfo_endpoint", needed=False),
            secret_by=tuple(map(str, ways)) if isinstance(ways, list) else (),
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
        )

    def _endpoint(self, document: dict[str, Any], name: str, *, needed: bool = True) -> str:
        """A URL of the document, which must be no weaker than the one that the document is at."""
        url = document.get(name)
        if url is None and not needed:
            return ""
        safe = ("https://",)
        if (self._settings.oidc_discovery_url or "").startswith("http://"):
            safe = ("https://", "http://")
        if not isinstance(url, str) or not url.startswith(safe):
            raise _away(f"its document has no usable {name}")
        return url


def _away(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the identity provider cannot be used: {why}; try again in a moment, or ask the operator "
        "to check the OIDC settings",
    )
