"""Envelope encryption of credentials: AES-256-GCM, a fresh data key for each secret.

The data key encrypts the secret, the install's ``ENCRYPTION_KEY`` encrypts ("wraps") the data
key. Changing the install's key re-wraps data keys only; the secrets are not touched.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentcy_ray.core.errors import ConfigError, SealBrokenError

KEY_BYTES = 32
NONCE_BYTES = 12
"""NIST SP 800-38D: the length that GCM is made for."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted secret, as it is stored in ``credentials``."""

    ciphertext: bytes = field(repr=False)
    """The secret under its data key, with the 16-byte tag at the end."""
    nonce: bytes = field(repr=False)
    wrapped_key: bytes = field(repr=False)
    """Nonce and ciphertext of the data key under the install's key."""
    key_id: str
    """Which install's key wrapped it."""


class Vault:
    """Seals and opens secrets with the install's key, and opens with the previous one too."""

    def __init__(self, key: bytes, previous: bytes | None = None) -> None:
        """Take the keys, 32 bytes each.

        Raises:
            ConfigError: a key has another length.
        """
        self._keys: dict[str, AESGCM] = {}
        for name, value in (("ENCRYPTION_KEY", key), ("ENCRYPTION_KEY_PREVIOUS", previous)):
            if value is None:
                continue
            if len(value) != KEY_BYTES:
                raise ConfigError(f"{name} has {len(value)} bytes, it needs {KEY_BYTES}")
            self._keys.setdefault(_key_id(value), AESGCM(value))
        self.key_id = _key_id(key)
        """Of the key that seals."""

    def seal(self, plain: bytes, aad: str) -> Sealed:
        """Encrypt ``plain``, bound to ``aad``: whose it is, such as ``org:source:version``."""
        data_key = AESGCM.generate_key(KEY_BYTES * 8)
        nonce = secrets.token_bytes(NONCE_BYTES)
        return Sealed(
            ciphertext=AESGCM(data_key).encrypt(nonce, plain, aad.encode()),
            nonce=nonce,
            wrapped_key=self._wrap(data_key),
            key_id=self.key_id,
        )

    def open(self, sealed: Sealed, aad: str) -> bytes:
        """Decrypt.

        Raises:
            SealBrokenError: it was sealed with an unknown key or for another ``aad``, or was
                changed.
        """
        try:
            return AESGCM(self._unwrap(sealed)).decrypt(
                sealed.nonce, sealed.ciphertext, aad.encode()
            )
        except InvalidTag:
            raise SealBrokenError(
                "a stored secret was changed, or belongs to another owner; enter it again"
            ) from None

    def rewrap(self, sealed: Sealed) -> Sealed:
        """The same secret under the current key; unchanged when it is under it already.

        Raises:
            SealBrokenError: the data key does not open.
        """
        if sealed.key_id == self.key_id:
            return sealed
        return replace(sealed, wrapped_key=self._wrap(self._unwrap(sealed)), key_id=self.key_id)

    def _wrap(self, data_key: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._keys[self.key_id].encrypt(nonce, data_key, self.key_id.encode())

    def _unwrap(self, sealed: Sealed) -> bytes:
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise SealBrokenError(
                f"a stored secret was sealed with key {sealed.key_id}, the install has "
                f"{', '.join(self._keys)}; set ENCRYPTION_KEY_PREVIOUS to the earlier key",
                key_id=sealed.key_id,
            )
        nonce, wrapped = sealed.wrapped_key[:NONCE_BYTES], sealed.wrapped_key[NONCE_BYTES:]
        try:
            return key.decrypt(nonce, wrapped, sealed.key_id.encode())
        except InvalidTag:
            raise SealBrokenError(
                "the data key of a stored secret was changed; enter the secret again"
            ) from None


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"agentcy encryption key\0" + key).hexdigest()[:12]
