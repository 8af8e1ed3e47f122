"""HashiCorp Vault, or OpenBao: a key of the transit engine wraps data keys.

``KMS_KEY_URI=vault://<mount>/<key>`` with ``VAULT_ADDR`` and ``VAULT_TOKEN``. The token needs
``update`` on ``<mount>/encrypt/<key>`` and ``<mount>/decrypt/<key>``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

import orjson

from agentcy_ray.core.errors import SealBrokenError
from agentcy_ray.stores.keys.service import Answer, KeyService, Reply, is_final
from agentcy_ray.stores.keys.source import PURPOSE, WrappedKey, away, changed

SCHEME = "vault://"
_VERSION = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+")
_BROKEN = ("authentication failed", "invalid ciphertext")
_TOO_OLD = "disallowed by policy"


class TransitSource:
    """Wraps by ``encrypt`` and unwraps by ``decrypt`` of one transit key."""

    remote = True

    def __init__(
        self,
        key: str,
        url: str,
        service: KeyService,
        token: Callable[[], str],
        namespace: str | None = None,
    ) -> None:
        """Take the key as ``mount/name``, and where the server is.

        Args:
            key: the mount may have several parts.
            url: of the server.
            service: carries requests.
            token: gives the token to use now.
            namespace: of an enterprise server.
        """
        self.name = SCHEME + key
        mount, _, key_name = key.rpartition("/")
        self._mount = f"{url.rstrip('/')}/v1/{quote(mount)}"
        self._key = quote(key_name, safe="")
        self._service = service
        self._token = token
        self._namespace = namespace

    def owns(self, key_id: str) -> bool:
        """Key ids are the URI with the version that wrapped."""
        return key_id == self.name or key_id.startswith(f"{self.name}#v")

    async def wrap(self, data_key: bytes) -> WrappedKey:
        """As the protocol says."""
        answer = await self._ask("encrypt", plaintext=base64.b64encode(data_key).decode())
        text = answer.text("ciphertext")
        version = _VERSION.fullmatch(text)
        if version is None:
            raise away(self.name, "sent an answer that is none of a transit key")
        return WrappedKey(f"{self.name}#v{version[1]}", text.encode())

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """As the protocol says."""
        try:
            text = wrapped.blob.decode("ascii")
        except UnicodeDecodeError:
            raise changed() from None
        version = _VERSION.fullmatch(text)
        # The id says which version it was, so that nobody slips an older one in.
        if version is None or wrapped.key_id != f"{self.name}#v{version[1]}":
            raise changed()
        return (await self._ask("decrypt", ciphertext=text)).binary("plaintext")

    async def aclose(self) -> None:
        """Close connections."""
        await self._service.aclose()

    async def _ask(self, operation: str, **fields: str) -> Answer:
        bound = base64.b64encode(PURPOSE.encode()).decode()
        body = orjson.dumps({**fields, "associated_data": bound})

        async def headers() -> Mapping[str, str]:
            given = {"x-vault-token": self._token(), "x-vault-request": "true"}
            if self._namespace is not None:
                given["x-vault-namespace"] = self._namespace
            return given

        url = f"{self._mount}/{operation}/{self._key}"
        reply = await self._service.post(self.name, url, body, headers, final=_is_final)
        if reply.status == 200:
            return Answer.of(self.name, reply, "data")
        if operation == "decrypt" and _says(reply, _TOO_OLD):
            raise SealBrokenError(
                f"{self.name} does not decrypt such old versions any more; lower its "
                "min_decryption_version, run `agentcy keys rotate`, and raise it again"
            )
        if operation == "decrypt" and _says(reply, *_BROKEN):
            raise changed()
        raise away(self.name, f"refuses ({reply.status}); check VAULT_TOKEN and its policy")


def _is_final(reply: Reply) -> bool:
    """Some versions answer 500 for data that does not authenticate: no reason to ask again."""
    return is_final(reply) or _says(reply, *_BROKEN)


def _says(reply: Reply, *words: str) -> bool:
    text = reply.body.decode(errors="replace")
    return reply.status in {400, 500} and any(word in text for word in words)
