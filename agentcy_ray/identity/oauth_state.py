"""What is remembered of a browser that was sent to the identity provider, until it comes back.

It lies in Redis for ten minutes and is read once. The state in the URL alone proves nothing, since
somebody else's browser could be made to open that URL: the cookie that was set at the start must
come back too.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, cast

import orjson

from agentcy_ray.core.errors import BadRequestError
from agentcy_ray.stores.redis import RedisStore

LIVES_SECS = 600
_TAKE = """
local found = {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}
redis.call('DEL', KEYS[1], KEYS[2])
return found
"""
"""Both values, and they are gone: GETDEL is newer than the oldest Redis that we run on."""
_FORM = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Pending:
    """A login that has begun. ``verifier`` is PKCE's, ``return_to`` a path of ours."""

    nonce: str
    verifier: str = field(repr=False)
    return_to: str


@dataclass(frozen=True)
class Begun:
    """What the browser is given: ``state`` in the URL, ``browser`` as a cookie."""

    state: str
    browser: str


class OAuthStates:
    """Keeps and takes states."""

    def __init__(self, redis: RedisStore) -> None:
        self._redis = redis

    async def keep(self, pending: Pending) -> Begun:
        """Remember a login that begins.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        begun = Begun(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        kept = asdict(pending)
        verifier = kept.pop("verifier")
        kept["browser"] = _digest(begun.browser)
        state, pkce = self._keys(begun.state)
        async with self._redis.commands() as client, client.pipeline() as pipeline:
            pipeline.set(state, orjson.dumps(kept), ex=LIVES_SECS)
            pipeline.set(pkce, verifier, ex=LIVES_SECS)
            await pipeline.execute()
        return begun

    async def take(self, state: str, browser: str | None) -> Pending:
        """The login that a browser comes back from; a second time there is none.

        Raises:
            BadRequestError: ``oauth_state_invalid``: made up, used, expired, or another browser's.
            StoreUnavailableError: Redis does not answer.
        """
        if _FORM.fullmatch(state) is None:
            raise _invalid()
        async with self._redis.commands() as client:
            found = await cast("Any", client.eval(_TAKE, 2, *self._keys(state)))
        if not all(isinstance(text, str) for text in found) or len(found) != 2:
            raise _invalid()
        kept = orjson.loads(found[0])
        if not hmac.compare_digest(kept["browser"], _digest(browser or "")):
            raise _invalid()
        return Pending(kept["nonce"], found[1], kept["return_to"])

    def _keys(self, state: str) -> tuple[str, str]:
        return self._redis.key("oauth", state), self._redis.key("pkce", state)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _invalid() -> BadRequestError:
    return BadRequestError(
        "this login was not begun in this browser, has been used, or took longer than ten minutes; "
        "begin anew at /api/v1/auth/oidc/start",
        code="oauth_state_invalid",
    )
