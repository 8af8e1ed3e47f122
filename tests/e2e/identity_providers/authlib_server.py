"""Authlib's OpenID provider in a process of its own: a public client, so it insists on PKCE.

Run as ``python -m tests.e2e.identity_providers.authlib_server REDIRECT_URI``; prints its URL.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector, current_token
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode
from flask import Flask, jsonify, request
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

CLIENT_ID = "agentcy"
ORG_CLAIM, ROLE_CLAIM = "https://agentcy.dev/org_id", "https://agentcy.dev/role"
FORM = '<form method="post"><input name="login"><input name="password" type="password"></form>'


@dataclass
class Client:
    """The one client: public, code flow only, one redirect URI."""

    redirect_uri: str
    client_id: str = CLIENT_ID
    id_token_signed_response_alg: str = "RS256"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return " ".join(s for s in scope.split() if s in ("openid", "email", "profile"))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return False

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@dataclass
class Code:
    """An authorization code that waits to be exchanged."""

    code: str
    user: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    made: float = field(default_factory=time.time)

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(self.made)

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass
class Token:
    """An access token, for the userinfo endpoint."""

    user: str
    scope: str

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False

    def get_scope(self) -> str:
        return self.scope


def build(redirect_uri: str, key: RSAKey) -> Flask:
    """The provider as a Flask application; its URL is the host that it is asked by."""
    app = Flask("provider")
    client, codes, tokens = Client(redirect_uri), dict[str, Code](), dict[str, Token]()

    class CodeGrant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

        def save_authorization_code(self, code: str, request: Any) -> None:
            data = request.payload.data
            codes[code] = Code(
                code, request.user, request.payload.redirect_uri, request.payload.scope,
                data.get("nonce"), data.get("code_challenge"), data.get("code_challenge_method"),
            )  # fmt: skip

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            return codes.get(code)

        def delete_authorization_code(self, authorization_code: Code) -> None:
            codes.pop(authorization_code.code, None)

        def authenticate_user(self, authorization_code: Code) -> str:
            return authorization_code.user

    class IdTokens(OpenIDCode):
        def resolve_client_private_key(self, client: Client) -> RSAKey:
            return key

        def get_client_claims(self, client: Client) -> dict[str, Any]:
            return {"iss": request.host_url.rstrip("/"), "aud": [client.client_id]}

        def get_encode_header(self, client: Client) -> dict[str, str]:
            return {"alg": "RS256", "kid": str(key.kid)}

        def exists_nonce(self, nonce: str, request: Any) -> bool:
            return any(code.nonce == nonce for code in codes.values())

        def generate_user_info(self, user: str, scope: str) -> dict[str, Any]:
            return claims_of(user)

    def save_token(token: dict[str, Any], request: Any) -> None:
        tokens[token["access_token"]] = Token(request.user, token["scope"])

    class Validator(BearerTokenValidator):
        def authenticate_token(self, token_string: str) -> Token | None:
            return tokens.get(token_string)

    server = AuthorizationServer()
    server.init_app(
        app,
        query_client=lambda client_id: client if client_id == CLIENT_ID else None,
        save_token=save_token,
    )
    server.register_grant(CodeGrant, [IdTokens(require_nonce=True), CodeChallenge(required=True)])
    protect = ResourceProtector()
    protect.register_token_validator(Validator())

    @app.get("/.well-known/openid-configuration")
    def document() -> Any:
        base = request.host_url.rstrip("/")
        return jsonify({
            "issuer": base,
            "jwks_uri": f"{base}/jwks",
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "userinfo_endpoint": f"{base}/userinfo",
            "token_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
        })  # fmt: skip

    @app.get("/jwks")
    def jwks() -> Any:
        public = key.as_dict(private=False)
        return jsonify({"keys": [{**public, "kid": key.kid, "use": "sig", "alg": "RS256"}]})

    @app.route("/authorize", methods=["GET", "POST"])
    def authorize() -> Any:
        if request.method == "GET":
            return FORM
        if request.form["password"] != "correct":
            return FORM, 401
        grant = server.get_consent_grant(end_user=request.form["login"])
        return server.create_authorization_response(grant=grant, grant_user=request.form["login"])

    @app.post("/token")
    def token() -> Any:
        return server.create_token_response()

    @app.get("/userinfo")
    @protect("openid")
    def userinfo() -> Any:
        return jsonify(claims_of(current_token.user))

    _ = (document, jwks, authorize, token, userinfo)
    return app


def claims_of(user: str) -> dict[str, Any]:
    return {
        "sub": f"user-{user}", "email": f"{user}@acme.test", "email_verified": True,
        "name": user.title(), ORG_CLAIM: "default", ROLE_CLAIM: "member",
    }  # fmt: skip


def main() -> None:
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # it is on the loopback
    key = RSAKey.generate_key(2048, auto_kid=True)
    server = make_server("127.0.0.1", 0, build(sys.argv[1], key), threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
