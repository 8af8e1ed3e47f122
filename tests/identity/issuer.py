"""A small OIDC issuer on a real port, which also says what no honest one would.

It signs by hand, so that a token may have any header and any claims, and counts who asks it what.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentcy_ray.identity.oidc_issuer import WELL_KNOWN
from tests.api.platform import serve

CLIENT_ID, CLIENT_SECRET, AUDIENCE = "agentcy-web", "s3cret:with/odd%chars", "agentcy-api"
ORG_CLAIM, ROLE_CLAIM = "https://agentcy.dev/org_id", "https://agentcy.dev/role"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def part_of(value: Any) -> str:
    """A segment of a token: JSON of a value, or raw bytes or text as they are."""
    if isinstance(value, str):
        value = value.encode()
    return text_of(value if isinstance(value, bytes) else json.dumps(value).encode())


def raw_of(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def signature_of(key: PrivateKey, signed: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass
class Issuer:
    """The issuer; ``person`` is logged in at it, without a question."""

    url: str = ""
    keys: dict[str, PrivateKey] = field(default_factory=dict)
    published: list[dict[str, Any]] = field(default_factory=list)
    person: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    """What the userinfo endpoint adds."""
    id_token_change: dict[str, Any] = field(default_factory=dict)
    redirect_change: dict[str, str] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    away: bool = False
    document_change: dict[str, Any] = field(default_factory=dict)
    keys_answer: Response | None = None
    """Instead of the published keys."""
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def add_key(self, kid: str, key: PrivateKey, **more: Any) -> None:
        self.keys[kid] = key
        kind = RSAKey if isinstance(key, rsa.RSAPrivateKey) else ECKey
        public = kind.import_key(key).as_dict(private=False)
        self.published.append({**public, "kid": kid, "use": "sig", **more})

    def drop_key(self, kid: str) -> None:
        self.published[:] = [key for key in self.published if key["kid"] != kid]

    def claims(self, **change: Any) -> dict[str, Any]:
        """Of a good access token."""
        now = int(time.time())
        return self.person | {
            "iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + 600, "scope": "api",
        } | change  # fmt: skip

    def token(
        self, claims: Any = None, header: Mapping[str, Any] | None = None, kid: str = "r1"
    ) -> str:
        """Signed by the key ``kid``; a claim or header of ``...`` is left out."""
        key = self.keys[kid]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        head = {"alg": algorithm, "typ": "at+jwt", "kid": kid} | dict(header or {})
        claims = self.claims() if claims is None else claims
        if isinstance(claims, dict):
            claims = {name: value for name, value in claims.items() if value is not ...}
        head = {name: value for name, value in head.items() if value is not ...}
        signed = f"{part_of(head)}.{part_of(claims)}"
        return f"{signed}.{text_of(signature_of(key, signed.encode()))}"

    def id_token(self, nonce: str, access_token: str) -> str:
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        claims = self.claims(aud=CLIENT_ID, nonce=nonce, at_hash=text_of(half), scope=...)
        return self.token(claims | self.id_token_change, {"typ": "JWT"})

    # -- what it serves ------------------------------------------------------------------------

    async def document(self, request: Request) -> Response:
        self.asked["document"] += 1
        if self.away:
            return Response(status_code=503)
        return JSONResponse({
            "issuer": self.url,
            "jwks_uri": f"{self.url}/jwks",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "code_challenge_methods_supported": ["S256"],
        } | self.document_change)  # fmt: skip

    async def jwks(self, request: Request) -> Response:
        self.asked["jwks"] += 1
        if self.away:
            return Response(status_code=503)
        return self.keys_answer or JSONResponse({"keys": self.published})

    async def authorize(self, request: Request) -> Response:
        """Nobody is asked anything: the browser goes back with a code."""
        query = dict(request.query_params)
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        back = {"code": code, "state": query["state"], "iss": self.url} | self.redirect_change
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(back)}", 302)

    async def exchange(self, request: Request) -> Response:
        """Checks what a good provider does: client, code, redirect URI and PKCE's verifier."""
        self.asked["token"] += 1
        form = {
            name: values[0] for name, values in parse_qs((await request.body()).decode()).items()
        }
        begun = self.codes.pop(form.get("code", ""), None)
        user, _, secret = base64.b64decode(
            request.headers.get("authorization", "").removeprefix("Basic ")
        ).decode().partition(":")  # fmt: skip
        if (parse_qs(f"a={user}&b={secret}")) != {"a": [CLIENT_ID], "b": [CLIENT_SECRET]}:
            return JSONResponse({"error": "invalid_client"}, 401)
        challenge = text_of(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            begun is None
            or begun["code_challenge"] != challenge
            or begun["redirect_uri"] != form.get("redirect_uri")
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        access = self.token()
        return JSONResponse({
            "access_token": access, "token_type": "Bearer",
            "id_token": self.id_token(begun["nonce"], access),
        })  # fmt: skip

    async def userinfo(self, request: Request) -> Response:
        self.asked["userinfo"] += 1
        return JSONResponse({"sub": self.person["sub"]} | self.told)

    async def trap(self, request: Request) -> Response:
        """Where attackers' ``jku`` and ``x5u`` point to."""
        self.asked["trap"] += 1
        return JSONResponse({"keys": self.published})

    def reset(self) -> None:
        """As it was when it began."""
        for thing in (
            self.id_token_change, self.redirect_change, self.document_change, self.told, self.asked,
        ):  # fmt: skip
            thing.clear()
        self.away, self.keys_answer = False, None
        for kid in list(self.keys):
            if kid not in ("r1", "e1"):
                del self.keys[kid]
                self.drop_key(kid)
        self.person = {
            "sub": secrets.token_hex(8), "email": f"{secrets.token_hex(4)}@acme.test",
            "name": "Ada", ORG_CLAIM: "acme",
        }  # fmt: skip


@asynccontextmanager
async def open_issuer() -> AsyncGenerator[Issuer]:
    """An issuer with one RSA and one EC key, serving."""
    issuer = Issuer()
    issuer.add_key("r1", rsa.generate_private_key(65537, 2048), alg="RS256")
    issuer.add_key("e1", ec.generate_private_key(ec.SECP256R1()))
    issuer.reset()
    app = Starlette(
        routes=[
            Route(WELL_KNOWN, issuer.document),
            Route("/jwks", issuer.jwks),
            Route("/authorize", issuer.authorize),
            Route("/token", issuer.exchange, methods=["POST"]),
            Route("/userinfo", issuer.userinfo),
            Route("/trap", issuer.trap),
        ]
    )
    async with serve(app) as url:
        issuer.url = url
        yield issuer
