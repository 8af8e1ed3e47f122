"""The public keys of an OIDC issuer, and when they are read anew.

Every process keeps them in memory and shares them by Redis, so that a start of many replicas asks
the issuer once. What lies in Redis is sealed with a key of ours: whoever can write there must not
be able to say which keys we trust. Keys that are older than their time are not used, whatever the
issuer's state: without fresh keys nobody gets in.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.stores.redis import RedisStore

log = structlog.get_logger(__name__)

PublicKey = RSAKey | ECKey
FetchKeys = Callable[[], Awaitable[dict[str, Any]]]
"""Reads the issuer's JWKS; raises ``StoreUnavailableError``."""

UNSEEN_SECS = 60.0
"""An unseen ``kid`` makes us read the keys anew at most once in this time."""
RETRY_SECS = 5.0
"""After the issuer did not answer, it is left alone for this long."""
SHARED_MAX_SECS = 3600
MAX_KEYS = 64
_MIN_RSA_BITS = 2048
_CLOCKS_SECS = 60.0
_PUBLIC = frozenset({"kty", "kid", "alg", "use", "n", "e", "crv", "x", "y"})


@dataclass(frozen=True)
class _Held:
    """Keys by ``kid`` and algorithm, and when they were read, in seconds since the epoch."""

    keys: dict[tuple[str, str], PublicKey]
    read_at: float


class KeyRing:
    """The keys of one issuer."""

    def __init__(
        self,
        issuer: str,
        fetch: FetchKeys,
        redis: RedisStore,
        clock: Clock,
        *,
        ttl_secs: int,
        seal_key: bytes,
    ) -> None:
        """Nothing is read yet.

        Args:
            issuer: part of the name in Redis and of the seal.
            fetch: reads the JWKS.
            redis: shares it between processes; away, each process reads for itself.
            clock: what keys' ages are counted by.
            ttl_secs: longest time that keys are used without being read anew.
            seal_key: known to our processes alone.
        """
        self._issuer = issuer
        self._fetch = fetch
        self._redis = redis
        self._clock = clock
        self._ttl = ttl_secs
        self._seal_key = sha256(b"jwks:" + seal_key).digest()
        self._held: _Held | None = None
        self._failed_at: float | None = None
        self._flight = asyncio.Lock()

    async def key(self, kid: str, algorithm: str) -> PublicKey | None:
        """The key of that name for that algorithm; None when the issuer has none such.

        Raises:
            StoreUnavailableError: the issuer does not answer, and no keys are fresh enough.
        """
        wanted = (kid, algorithm)
        held = self._fresh(self._held)
        if held is not None and wanted in held.keys:
            return held.keys[wanted]
        async with self._flight:  # whoever waited finds what the first one brought
            held = self._fresh(self._held)
            if held is None or wanted not in held.keys:
                held = await self._renew(held)
        return held.keys.get(wanted)

    async def _renew(self, held: _Held | None) -> _Held:
        """Fresh keys: another process's, or read anew when it is time for that."""
        shared = self._fresh(await self._shared())
        if shared is not None and (held is None or shared.read_at > held.read_at):
            held = self._held = shared
            return held
        now = self._now()
        if held is not None and now - held.read_at < UNSEEN_SECS:
            return held
        if self._failed_at is not None and 0 <= now - self._failed_at < RETRY_SECS:
            return self._or_closed(held, None)
        try:
            document = await self._fetch()
        except StoreUnavailableError as error:
            self._failed_at = now
            log.warning("keys of the OIDC issuer cannot be read", error=error.message)
            return self._or_closed(held, error)
        self._failed_at = None
        self._held = _Held(_usable(document), now)
        await self._share(document, now)
        return self._held

    def _or_closed(self, held: _Held | None, error: StoreUnavailableError | None) -> _Held:
        """What is still fresh, else nobody gets in.

        An unseen ``kid`` is tried again after a while, not at each token that has one.
        """
        if held is None:
            raise StoreUnavailableError(
                "the identity provider does not answer, so its tokens cannot be verified; "
                "try again in a moment"
            ) from error
        return held

    def _fresh(self, held: _Held | None) -> _Held | None:
        """Keys whose time is not over; another machine's clock may be a little ahead of ours."""
        if held is None or not -_CLOCKS_SECS < self._now() - held.read_at < self._ttl:
            return None
        return held

    def _now(self) -> float:
        return self._clock.now().timestamp()

    @property
    def _name(self) -> str:
        return self._redis.key("cache", "jwks", self._issuer)

    async def _shared(self) -> _Held | None:
        """What another process has read, when its seal is good."""
        try:
            async with self._redis.commands() as client:
                text = await client.get(self._name)
        except StoreUnavailableError:
            return None
        if not isinstance(text, str):
            return None
        seal, _, body = text.partition(".")
        if not hmac.compare_digest(seal, self._seal(body)):
            log.warning("keys in Redis carry no seal of ours and are not used", key=self._name)
            return None
        kept = orjson.loads(body)
        return _Held(_usable(kept["document"]), float(kept["read_at"]))

    async def _share(self, document: dict[str, Any], read_at: float) -> None:
        body = orjson.dumps({"document": document, "read_at": read_at}).decode()
        try:
            async with self._redis.commands() as client:
                await client.set(
                    self._name, f"{self._seal(body)}.{body}", ex=min(self._ttl, SHARED_MAX_SECS)
                )
        except StoreUnavailableError:
            log.info("keys of the OIDC issuer are not shared: Redis is away")

    def _seal(self, body: str) -> str:
        text = f"{self._issuer}\n{body}".encode()
        return hmac.new(self._seal_key, text, sha256).hexdigest()


def _usable(document: dict[str, Any]) -> dict[tuple[str, str], PublicKey]:
    """The keys that may sign: public, named, strong enough, RS256 or ES256; others are left out."""
    keys: dict[tuple[str, str], PublicKey] = {}
    entries = document.get("keys")
    for entry in entries[:MAX_KEYS] if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        kid, found = entry.get("kid"), _imported(entry)
        if found is None or not isinstance(kid, str) or not kid:
            continue
        algorithm, key = found
        if entry.get("alg", algorithm) == algorithm:
            keys[(kid, algorithm)] = key
    return keys


def _imported(entry: dict[str, Any]) -> tuple[str, PublicKey] | None:
    public: Any = {name: value for name, value in entry.items() if name in _PUBLIC}
    try:
        if entry.get("kty") == "RSA" and len(entry["n"]) * 6 >= _MIN_RSA_BITS:
            key = RSAKey.import_key(public)
            return ("RS256", key) if key.raw_value.key_size >= _MIN_RSA_BITS else None
        if entry.get("kty") == "EC" and entry.get("crv") == "P-256":
            return "ES256", ECKey.import_key(public)
    except (JoseError, ValueError, TypeError, KeyError):
        log.warning("a key of the OIDC issuer is malformed and not used", kid=entry.get("kid"))
    return None
