"""Makes good and bad tokens of either provider, by hand: a library would refuse to make most."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from agentcy_ray.identity.provider import IdentityProvider
from tests.identity.conftest import SECRET, Desk, OidcDesk
from tests.identity.issuer import Issuer, PrivateKey, part_of, raw_of, signature_of, text_of


@dataclass
class Forge:
    """What an attacker has: a good token, somebody else's keys, and a lot of time."""

    name: str
    provider: IdentityProvider
    header: dict[str, Any]
    claims: dict[str, Any]
    issuer: Issuer
    key: PrivateKey | bytes
    """What the provider trusts; only the honest half of a row signs with it."""
    own: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    def token(
        self, claims: Any = None, header: Any = None, *, by: Any = None, **change: Any
    ) -> str:
        """Signed by ``by``, else by the trusted key; claims and headers of ``...`` are left out."""
        claims = self.claims | change if claims is None else claims
        header = self.header | (header or {}) if not isinstance(header, str) else header
        text = f"{part_of(_without(header))}.{part_of(_without(claims))}"
        return f"{text}.{text_of(self.sign(text, self.key if by is None else by))}"

    def sign(self, text: str, by: Any) -> bytes:
        if isinstance(by, bytes):
            return hmac.digest(by, text.encode(), "sha256")
        return signature_of(by, text.encode())

    def parts(self) -> list[str]:
        """Those of a good token."""
        return self.token().split(".")

    @property
    def public_pem(self) -> bytes:
        """The public key of the issuer, as text: what HMAC's key is in the confusion attack."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        key = self.issuer.keys["r1"].public_key()
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _without(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: inner for name, inner in value.items() if inner is not ...}


async def local_forge(desk: Desk, issuer: Issuer, email: str, password: str) -> Forge:
    token = (await desk.identity.login(email, password)).token
    header, claims = (json.loads(raw_of(part)) for part in token.split(".")[:2])
    return Forge("local", desk.identity, header, claims, issuer, SECRET.encode())


async def oidc_forge(desk: OidcDesk) -> Forge:
    issuer = desk.issuer
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "r1"}
    provider = desk.open().provider
    return Forge("oidc", provider, header, issuer.claims(), issuer, issuer.keys["r1"])
