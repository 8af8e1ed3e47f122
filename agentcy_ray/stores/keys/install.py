"""The install's own key, from a setting, a file, or the state folder. The default source."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentcy_ray.core.errors import ConfigError, SealBrokenError
from agentcy_ray.stores.keys.source import KEY_BYTES, WrappedKey, changed

NONCE_BYTES = 12
"""NIST SP 800-38D: the length that GCM is made for."""
FRESH_SECS = 2.0
"""Age at which keys that lie in files are read anew before the next secret is sealed."""


@dataclass(frozen=True, slots=True)
class InstallKeys:
    """The keys of an install, 32 bytes each; ``key`` is None where a service alone wraps."""

    key: bytes | None = field(repr=False)
    previous: bytes | None = field(default=None, repr=False)


class InstallSource:
    """Wraps with the install's key by AES-256-GCM, and unwraps with the previous one too.

    Keys that lie in files may be replaced while we run: an unknown key id makes them be read
    anew, and so does their age before something is sealed.
    """

    remote = False

    def __init__(self, read: Callable[[], InstallKeys], *, fixed: bool = False) -> None:
        """Take what reads the keys; ``fixed`` when it can give nothing new.

        Raises:
            ConfigError: a key has another length.
        """
        self._read = read
        self._fixed = fixed
        self._keys: dict[str, AESGCM] = {}
        self._current: str | None = None
        self._read_at = 0.0
        self._take(read())

    @classmethod
    def fixed(cls, key: bytes, previous: bytes | None = None) -> InstallSource:
        """A source of given keys, which never change.

        Raises:
            ConfigError: a key has another length.
        """
        keys = InstallKeys(key, previous)
        return cls(lambda: keys, fixed=True)

    @property
    def name(self) -> str:
        """For people."""
        return "the install's key"

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the keys at hand, the current one first."""
        return tuple(self._keys)

    def owns(self, key_id: str) -> bool:
        """Ids of install keys are bare hexadecimal; those of services are URIs."""
        return ":" not in key_id

    async def wrap(self, data_key: bytes) -> WrappedKey:
        """Wrap with the current key.

        Raises:
            ConfigError: there is none.
        """
        if not self._fixed and time.monotonic() - self._read_at > FRESH_SECS:
            await self._reread()
        if self._current is None:
            raise ConfigError("there is no ENCRYPTION_KEY to seal with; set it, or KMS_KEY_URI")
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._keys[self._current].encrypt(nonce, data_key, self._current.encode())
        return WrappedKey(self._current, nonce + sealed)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """The data key.

        Raises:
            SealBrokenError: the key is not among ours, or the data key was changed.
        """
        if wrapped.key_id not in self._keys and not self._fixed:
            await self._reread()
        key = self._keys.get(wrapped.key_id)
        if key is None:
            raise SealBrokenError(
                f"a stored secret was sealed with key {wrapped.key_id}, the install has "
                f"{', '.join(self._keys) or 'none'}; set ENCRYPTION_KEY_PREVIOUS to the earlier "
                "key",
                key_id=wrapped.key_id,
            )
        nonce, sealed = wrapped.blob[:NONCE_BYTES], wrapped.blob[NONCE_BYTES:]
        try:
            return key.decrypt(nonce, sealed, wrapped.key_id.encode())
        except (InvalidTag, ValueError):  # the latter for a nonce that is too short
            raise changed() from None

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _reread(self) -> None:
        self._take(await asyncio.to_thread(self._read))

    def _take(self, found: InstallKeys) -> None:
        keys: dict[str, AESGCM] = {}
        for name, value in (
            ("ENCRYPTION_KEY", found.key),
            ("ENCRYPTION_KEY_PREVIOUS", found.previous),
        ):
            if value is None:
                continue
            if len(value) != KEY_BYTES:
                raise ConfigError(f"{name} has {len(value)} bytes, it needs {KEY_BYTES}")
            keys.setdefault(key_id_of(value), AESGCM(value))
        self._keys = keys
        self._current = None if found.key is None else key_id_of(found.key)
        self._read_at = time.monotonic()


def key_id_of(key: bytes) -> str:
    """Names an install key without telling it: 12 hexadecimal digits of a hash."""
    return hashlib.sha256(b"agentcy encryption key\0" + key).hexdigest()[:12]
