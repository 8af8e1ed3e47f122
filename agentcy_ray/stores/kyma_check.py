"""Looking at a kyma: whether it answers, and whether it knows our token."""

from __future__ import annotations

import httpx2

from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.stores.egress import Egress
from agentcy_ray.stores.http_client import open_http
from agentcy_ray.stores.versions import Check

CHECK_SECS = 5.0


async def check_kyma(url: str, token: str, settings: AccessSettings | None = None) -> list[Check]:
    """Its version, and that the token opens more than the open routes.

    ``settings`` name the proxy on the way; None = there is none.

    Raises:
        StoreUnavailableError: it does not answer.
        ConfigError: the address is malformed, is none of a kyma, or the token is refused.
    """
    headers = {"authorization": f"Bearer {token}"} if token else {}
    guard = Egress(settings or AccessSettings()).guard("operator")
    try:
        client = open_http(
            guard, base_url=url, headers=headers, idle_secs=CHECK_SECS, connect_secs=CHECK_SECS
        )
        async with client:
            health = await client.get("/health")
            known = await client.get("/v1/catalog/schema")
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, ValueError) as error:
        raise ConfigError(f"KYMA_BASE_URL is malformed: {error}") from error
    except httpx2.HTTPError as error:
        raise StoreUnavailableError(
            f"kyma does not answer: {error or type(error).__name__}; start it, or correct "
            "KYMA_BASE_URL"
        ) from error
    if known.status_code in (401, 403):
        raise ConfigError("kyma refuses KYMA_TOKEN; set it to a token with the write role")
    try:
        version = str(health.json()["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{url} is not a kyma: its /health answers {health.status_code} without a version; "
            "correct KYMA_BASE_URL"
        ) from error
    return [Check("kyma", True, version, "an answer")]
