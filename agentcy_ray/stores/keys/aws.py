"""AWS KMS: a symmetric key wraps data keys, over its JSON protocol with signed requests.

``KMS_KEY_URI=aws-kms://<key id or ARN>``. Credentials are the ambient ones, found and renewed by
botocore: variables, profile, container or instance role.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.stores.keys.service import Answer, KeyService, Reply
from agentcy_ray.stores.keys.source import PURPOSE, WrappedKey, away, changed

SCHEME = "aws-kms://"
_BROKEN = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


class Signer(Protocol):
    """Signs one request."""

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """The headers to send; may block, since it may renew credentials.

        Raises:
            ConfigError: there are no credentials.
        """
        ...


class AwsSource:
    """Wraps by ``Encrypt`` and unwraps by ``Decrypt`` of one KMS key."""

    remote = True

    def __init__(self, key: str, url: str, service: KeyService, sign: Signer) -> None:
        """Take the key's id or ARN, and where its region's KMS is.

        Raises:
            ConfigError: an alias is named.
        """
        if key.startswith("alias/") or ":alias/" in key:
            raise ConfigError(
                f"KMS_KEY_URI names {key}: an alias may come to mean another key, and then nothing "
                "opens; name the key by its id or ARN"
            )
        self.name = SCHEME + key
        self._key = key
        self._url = url
        self._service = service
        self._sign = sign

    def owns(self, key_id: str) -> bool:
        """Key ids are the URI; AWS keeps the versions of a key to itself."""
        return key_id == self.name

    async def wrap(self, data_key: bytes) -> WrappedKey:
        """As the protocol says."""
        body = {"KeyId": self._key, "Plaintext": base64.b64encode(data_key).decode()}
        answer = await self._ask("Encrypt", body)
        return WrappedKey(self.name, answer.binary("CiphertextBlob"))

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """As the protocol says."""
        body = {"KeyId": self._key, "CiphertextBlob": base64.b64encode(wrapped.blob).decode()}
        return (await self._ask("Decrypt", body)).binary("Plaintext")

    async def aclose(self) -> None:
        """Close connections."""
        await self._service.aclose()

    async def _ask(self, operation: str, body: Mapping[str, Any]) -> Answer:
        content = orjson.dumps({**body, "EncryptionContext": {"purpose": PURPOSE}})
        headers = {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": f"TrentService.{operation}",
        }

        async def signed() -> Mapping[str, str]:  # anew for each try: a signature ages
            return await asyncio.to_thread(self._sign, self._url, headers, content)

        reply = await self._service.post(self.name, self._url, content, signed)
        if reply.status == 200:
            return Answer.of(self.name, reply)
        kind = _kind(reply)
        if kind in _BROKEN:
            raise changed()
        raise away(self.name, f"refuses ({kind or reply.status})")


def _kind(reply: Reply) -> str:
    """The error's type, without the namespace that some answers put before it."""
    try:
        return str(orjson.loads(reply.body)["__type"]).rpartition("#")[2]
    except (ValueError, KeyError, TypeError):
        return ""


def region_of(key: str, region: str | None) -> str:
    """The region of a key: its ARN's, else ``AWS_REGION``.

    Raises:
        ConfigError: neither says it.
    """
    if key.startswith("arn:"):
        return key.split(":")[3]
    if region is None:
        raise ConfigError("KMS_KEY_URI gives a key by id; set AWS_REGION, or give its ARN")
    return region


def ambient_signer(region: str) -> Signer:
    """Signs for KMS (Signature Version 4) with the credentials that botocore finds.

    Raises:
        ConfigError: botocore is not installed.
    """
    try:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.session import Session
    except ImportError as error:
        raise ConfigError("aws-kms:// needs botocore; pip install 'agentcy-ray[kms]'") from error
    session: Any = Session()
    found: Callable[[], Any] = session.get_credentials

    def sign(url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        credentials = found()
        if credentials is None:
            raise ConfigError(
                "KMS_KEY_URI names a key of AWS and there are no credentials for it; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"
            )
        request: Any = AWSRequest("POST", url, headers=dict(headers), data=body)
        SigV4Auth(credentials.get_frozen_credentials(), "kms", region).add_auth(request)
        return dict(request.headers.items())

    return sign
