"""Google Cloud KMS: a symmetric key wraps data keys, over REST, with its checksums checked.

``KMS_KEY_URI=gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K``. Credentials are the
ambient ones, found and renewed by google-auth.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.stores.keys.crc32c import crc32c
from agentcy_ray.stores.keys.service import Answer, KeyService
from agentcy_ray.stores.keys.source import PURPOSE, WrappedKey, away, changed

SCHEME = "gcp-kms://"
PUBLIC_URL = "https://cloudkms.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloudkms"

Bearer = Callable[[], str]
"""An access token that is good now; may block to renew it."""


class GcpSource:
    """Wraps by ``encrypt`` and unwraps by ``decrypt`` of one key of Cloud KMS."""

    remote = True

    def __init__(self, key: str, url: str, service: KeyService, bearer: Bearer) -> None:
        self.name = SCHEME + key
        self._key = key
        self._url = f"{url.rstrip('/')}/v1/{key}"
        self._service = service
        self._bearer = bearer

    def owns(self, key_id: str) -> bool:
        """Key ids are the URI with the version that wrapped."""
        return key_id == self.name or key_id.startswith(f"{self.name}/cryptoKeyVersions/")

    async def wrap(self, data_key: bytes) -> WrappedKey:
        """As the protocol says."""
        asked = {**_field("plaintext", data_key), **_bound()}
        answer = await self._ask("encrypt", asked)
        blob, used = answer.binary("ciphertext"), answer.text("name")
        whole = (
            answer.fields.get("verifiedPlaintextCrc32c") is True
            and answer.fields.get("verifiedAdditionalAuthenticatedDataCrc32c") is True
            and answer.text("ciphertextCrc32c") == str(crc32c(blob))
        )
        if not whole or not self.owns(SCHEME + used):
            raise away(self.name, "sent an answer that was changed on its way")
        return WrappedKey(SCHEME + used, blob)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """As the protocol says."""
        asked = {**_field("ciphertext", wrapped.blob), **_bound()}
        answer = await self._ask("decrypt", asked)
        data_key = answer.binary("plaintext")
        if answer.text("plaintextCrc32c") != str(crc32c(data_key)):
            raise away(self.name, "sent an answer that was changed on its way")
        return data_key

    async def aclose(self) -> None:
        """Close connections."""
        await self._service.aclose()

    async def _ask(self, operation: str, body: Mapping[str, Any]) -> Answer:
        async def headers() -> Mapping[str, str]:
            token = await asyncio.to_thread(self._bearer)
            return {"authorization": f"Bearer {token}", "content-type": "application/json"}

        reply = await self._service.post(
            self.name, f"{self._url}:{operation}", orjson.dumps(body), headers
        )
        if reply.status == 200:
            return Answer.of(self.name, reply)
        # 400 is also what a wrong checksum or a disabled key is answered with.
        if operation == "decrypt" and reply.status == 400 and b"FAILED_PRECON" not in reply.body:
            raise changed()
        raise away(self.name, f"refuses ({reply.status})")


def _field(name: str, value: bytes) -> dict[str, str]:
    """A field of bytes and its checksum, which is a 64-bit integer and so text in JSON."""
    return {name: base64.b64encode(value).decode(), f"{name}Crc32c": str(crc32c(value))}


def _bound() -> dict[str, str]:
    return _field("additionalAuthenticatedData", PURPOSE.encode())


def ambient_bearer() -> Bearer:
    """Access tokens of the credentials that google-auth finds: a file, or the machine's account.

    Raises:
        ConfigError: google-auth is not installed.
    """
    try:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
    except ImportError as error:
        raise ConfigError("gcp-kms:// needs google-auth; pip install 'agentcy-ray[kms]'") from error
    lock = threading.Lock()
    found: list[Any] = []

    def bearer() -> str:
        with lock:
            try:
                if not found:
                    found.append(google.auth.default(scopes=[_SCOPE])[0])
                credentials = found[0]
                if not credentials.valid:
                    credentials.refresh(Request())
            except GoogleAuthError as error:
                raise ConfigError(
                    "KMS_KEY_URI names a key of Google Cloud and there are no credentials for it; "
                    "set GOOGLE_APPLICATION_CREDENTIALS, or give this machine a service account"
                ) from error
            return str(credentials.token)

    return bearer
