"""Envelope encryption of credentials: AES-256-GCM, a fresh data key for each secret.

The data key encrypts the secret, a key source encrypts ("wraps") the data key: the install's
``ENCRYPTION_KEY``, or a key service. Changing that key re-wraps data keys only; the secrets are
not touched.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentcy_ray.core.errors import SealBrokenError
from agentcy_ray.stores.keys.install import NONCE_BYTES, InstallSource
from agentcy_ray.stores.keys.ring import DataKey, KeyRing
from agentcy_ray.stores.keys.source import WrappedKey

PACKED = b"\x02"
"""First byte of a packed secret: the version of its form."""
SHARED_SECS = 60.0
SHARED_USES = 10_000
"""A data key for what lives minutes seals so long and so often; GCM allows 2**32 random nonces."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted secret, as it is stored in ``credentials``."""

    ciphertext: bytes = field(repr=False)
    """The secret under its data key, with the 16-byte tag at the end."""
    nonce: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)
    """The data key under the key that ``key_id`` names."""
    key_id: str
    """Which key wrapped it."""

    def pack(self) -> bytes:
        """All of it in one value: version, key id and wrapped key with their lengths, the rest."""
        key_id = self.key_id.encode()
        head = PACKED + _length(key_id) + key_id + _length(self.wrapped_key) + self.wrapped_key
        return head + self.nonce + self.ciphertext

    @classmethod
    def unpack(cls, packed: bytes) -> Sealed:
        """What ``pack`` was called on.

        Raises:
            SealBrokenError: the value is cut short, or no packed secret at all.
        """
        try:
            if packed[:1] != PACKED:
                raise ValueError(packed[:1])
            key_id, at = _part(packed, 1)
            wrapped_key, at = _part(packed, at)
            nonce, ciphertext = packed[at : at + NONCE_BYTES], packed[at + NONCE_BYTES :]
            return cls(ciphertext, nonce, wrapped_key, key_id.decode())
        except ValueError:
            raise _broken() from None


class Vault:
    """Seals and opens secrets with the keys of a ring."""

    def __init__(self, keys: bytes | KeyRing, previous: bytes | None = None) -> None:
        """Take a ring; or the install's key, 32 bytes, and the one before it.

        Raises:
            ConfigError: a key has another length.
        """
        self.keys = (
            keys if isinstance(keys, KeyRing) else KeyRing(InstallSource.fixed(keys, previous))
        )
        self._shared: tuple[DataKey, float, int] | None = None

    async def seal(self, plain: bytes, aad: str) -> Sealed:
        """Encrypt ``plain``, bound to ``aad``: whose it is, such as ``org:source:version``.

        Raises:
            StoreUnavailableError: the key service does not answer.
        """
        return _sealed(await self.keys.new_key(), plain, aad)

    async def seal_briefly(self, plain: bytes, aad: str) -> Sealed:
        """``seal`` for what lives minutes and is made often: its data key serves others too.

        So a stream of them costs one request to a key service in a while, not one each.

        Raises:
            StoreUnavailableError: the key service does not answer.
        """
        if not self.keys.current.remote:
            return await self.seal(plain, aad)
        shared, now = self._shared, time.monotonic()
        if shared is None or now > shared[1] or shared[2] <= 0:
            shared = (await self.keys.new_key(), now + SHARED_SECS, SHARED_USES)
        key, until, left = shared
        self._shared = (key, until, left - 1)
        return _sealed(key, plain, aad)

    async def open(self, sealed: Sealed, aad: str) -> bytes:
        """Decrypt.

        Raises:
            SealBrokenError: it was sealed with an unknown key or for another ``aad``, or was
                changed.
            StoreUnavailableError: the key service does not answer.
        """
        data_key = await self.keys.unwrap(WrappedKey(sealed.key_id, sealed.wrapped_key))
        if len(sealed.nonce) != NONCE_BYTES:  # the library takes others
            raise _broken()
        try:
            return AESGCM(data_key).decrypt(sealed.nonce, sealed.ciphertext, aad.encode())
        except InvalidTag:
            raise _broken() from None

    async def rewrap(self, sealed: Sealed) -> Sealed:
        """The same secret with its data key under the current key.

        Raises:
            SealBrokenError: the data key does not open.
            StoreUnavailableError: the key service does not answer.
        """
        data_key = await self.keys.unwrap(WrappedKey(sealed.key_id, sealed.wrapped_key))
        wrapped = (await self.keys.wrap(data_key)).wrapped
        return replace(sealed, wrapped_key=wrapped.blob, key_id=wrapped.key_id)

    async def aclose(self) -> None:
        """Forget keys and give up connections."""
        self._shared = None
        await self.keys.aclose()


def _sealed(key: DataKey, plain: bytes, aad: str) -> Sealed:
    nonce = secrets.token_bytes(NONCE_BYTES)
    ciphertext = AESGCM(key.plain).encrypt(nonce, plain, aad.encode())
    return Sealed(ciphertext, nonce, key.wrapped.blob, key.wrapped.key_id)


def _length(part: bytes) -> bytes:
    return len(part).to_bytes(2, "big")


def _part(packed: bytes, at: int) -> tuple[bytes, int]:
    """The part whose length stands at ``at``, and where it ends."""
    begin = at + 2
    end = begin + int.from_bytes(packed[at:begin], "big")
    if end + NONCE_BYTES > len(packed):
        raise ValueError(end)
    return packed[begin:end], end


def _broken() -> SealBrokenError:
    return SealBrokenError(
        "a stored secret was changed, or belongs to another owner; enter it again"
    )
