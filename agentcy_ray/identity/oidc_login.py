"""Login by the browser: authorization code with PKCE, state and nonce, then a session of ours.

The issuer's tokens are used once, here, and not kept: what the browser gets is our own session.
Whoever is disabled here is out within seconds; whoever is disabled at the issuer, when it ends.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import (
    AgentcyError,
    BadRequestError,
    ConflictError,
    InvalidError,
    RefusedError,
    UnauthenticatedError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.oauth_state import OAuthStates, Pending
from agentcy_ray.identity.oidc import ALGORITHMS, signed_claims
from agentcy_ray.identity.oidc_claims import Person, person_of
from agentcy_ray.identity.oidc_issuer import Issuer, Metadata
from agentcy_ray.identity.oidc_users import OidcUsers
from agentcy_ray.identity.sessions import Account, Client, Login, Sessions
from agentcy_ray.identity.token_form import check_times, header_of, names_audience

SCOPE = "openid email profile"
CALLBACK = "/api/v1/auth/oidc/callback"
MAX_RETURN_LENGTH = 512
OnRefusal = Callable[[Account, AgentcyError], None]
_TYPES = frozenset({"jwt", ""})


@dataclass(frozen=True)
class Started:
    """Where the browser is sent, and the cookie by which it is known again."""

    url: str
    browser: str


@dataclass(frozen=True)
class Arrival:
    """What the issuer sent back by the browser's URL, and the browser's cookie."""

    state: str
    code: str | None
    error: str | None
    issuer: str | None
    browser: str | None


class OidcLogin:
    """Starts logins at the issuer and ends them here."""

    def __init__(
        self,
        settings: Settings,
        issuer: Issuer,
        users: OidcUsers,
        sessions: Sessions,
        states: OAuthStates,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._issuer = issuer
        self._users = users
        self._sessions = sessions
        self._states = states
        self._clock = clock

    async def start(self, return_to: str) -> Started:
        """Begin a login.

        Args:
            return_to: a path of ours where the browser goes at the end.

        Raises:
            InvalidError: ``return_to`` leads elsewhere.
            StoreUnavailableError: the issuer or Redis does not answer.
        """
        check_return(return_to)
        metadata = await self._issuer.metadata()
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        begun = await self._states.keep(Pending(nonce, verifier, return_to))
        url = prepare_grant_uri(
            metadata.authorize_url,
            self._client_id,
            "code",
            self._redirect_uri,
            SCOPE,
            begun.state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return Started(url, begun.browser)

    async def finish(
        self, arrival: Arrival, client: Client, refused: OnRefusal | None = None
    ) -> tuple[Login, str]:
        """The session of who has logged in, and the path where the browser goes.

        Args:
            arrival: what came back, and from which browser.
            client: where the login comes from.
            refused: told whom a refusal is about, once the issuer has said who it is.

        Raises:
            BadRequestError: ``oauth_state_invalid``.
            UnauthenticatedError: the issuer refused the login, or its answer is not valid.
            RefusedError, ConflictError: it is valid, and its holder may not come in.
            StoreUnavailableError: the issuer or Redis does not answer.
        """
        pending = await self._states.take(arrival.state, arrival.browser)
        metadata = await self._issuer.metadata()
        # RFC 9207: an answer that names its issuer must name ours, or codes are being mixed up.
        named = arrival.issuer is not None or metadata.names_itself
        if named and arrival.issuer != metadata.issuer:
            raise _not_valid()
        if arrival.error is not None or not arrival.code:
            raise UnauthenticatedError(
                "the identity provider did not let you in; begin anew at /api/v1/auth/oidc/start",
                code="invalid_credentials",
            )
        answer = await self._exchange(metadata, arrival.code, pending.verifier)
        person = await self._identify(metadata, answer, pending.nonce)
        try:
            admitted = await self._users.admit(person, store_role=True)
        except (RefusedError, ConflictError) as error:
            account = await self._users.account_of(person)
            if refused is not None and account is not None:
                refused(account, error)
            raise
        return await self._sessions.open_session(admitted.user, client), pending.return_to

    async def _exchange(self, metadata: Metadata, code: str, verifier: str) -> dict[str, Any]:
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=verifier
        )
        _, headers, body = self._client(metadata).prepare("POST", metadata.token_url, {}, body)
        status, answer = await self._issuer.post_form(metadata.token_url, body, headers)
        if status != 200:
            raise UnauthenticatedError(
                f"the identity provider refused to end the login ({_word(answer.get('error'))}); "
                "begin anew at /api/v1/auth/oidc/start",
                code="invalid_credentials",
            )
        return answer

    def _client(self, metadata: Metadata) -> ClientAuth:
        """How we prove who we are: by the header where the issuer takes it, else in the body."""
        secret, ways = self._settings.oidc_client_secret, metadata.secret_by
        if secret is None:
            return ClientAuth(self._client_id, None, "none")
        text = secret.get_secret_value()
        if not ways or "client_secret_basic" in ways:
            # RFC 6749, 2.3.1: both are form-encoded before they become a user and a password.
            return ClientAuth(quote(self._client_id, safe=""), quote(text, safe=""))
        return ClientAuth(self._client_id, text, "client_secret_post")

    async def _identify(self, metadata: Metadata, answer: dict[str, Any], nonce: str) -> Person:
        """Whom the answer of the token endpoint speaks of."""
        id_token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(id_token, str):
            raise _not_valid()
        try:
            header = header_of(id_token, ALGORITHMS, _TYPES)
            claims = await signed_claims(self._issuer, id_token, header)
            check_times(claims, self._clock.now().timestamp())
        except UnauthenticatedError as error:
            raise _not_valid() from error
        if (
            claims.get("iss") != metadata.issuer
            or not names_audience(claims, self._client_id)
            or not self._is_for_us(claims)
            or claims.get("nonce") != nonce
            or claims.get("typ", "ID") != "ID"
            or not _matches(claims, access_token)
        ):
            raise _not_valid()
        person = person_of(claims, metadata.issuer, self._settings)
        lacks = person.email is None or person.org is None
        if lacks and metadata.userinfo_url and isinstance(access_token, str):
            told = await self._issuer.get_json(metadata.userinfo_url, bearer=access_token)
            if told.get("sub") != person.subject:
                raise _not_valid()
            # Claims of the signed token win over what was merely told.
            return person_of({**told, **claims}, metadata.issuer, self._settings)
        return person

    def _is_for_us(self, claims: dict[str, Any]) -> bool:
        """``azp`` names the client of a token; with several audiences it must be there."""
        several = isinstance(claims.get("aud"), list) and len(claims["aud"]) > 1
        return claims.get("azp", None if several else self._client_id) == self._client_id

    @property
    def _client_id(self) -> str:
        return self._settings.oidc_client_id or ""

    @property
    def _redirect_uri(self) -> str:
        return self._settings.public_url.rstrip("/") + CALLBACK


def check_return(path: str) -> None:
    """Refuse a place to return to that is not a path of this server.

    Raises:
        InvalidError: another origin, or what a browser could read as one.
    """
    plain = path.startswith("/") and path.isascii() and path.isprintable() and " " not in path
    if not plain or path.startswith("//") or "\\" in path or len(path) > MAX_RETURN_LENGTH:
        raise InvalidError(
            "return_to must be a path of this server, such as /; leave it out",
            errors=[{"loc": "query.return_to", "message": "not a path of this server"}],
        )


def require_login(login: OidcLogin | None) -> OidcLogin:
    """The browser login, where it is set up.

    Raises:
        BadRequestError: it is not.
    """
    if login is None:
        raise BadRequestError(
            "there is no login by an identity provider here; log in by POST /api/v1/auth/login, or "
            "ask the operator to set AUTH_PROVIDER, OIDC_DISCOVERY_URL and OIDC_CLIENT_ID"
        )
    return login


def _matches(claims: dict[str, Any], access_token: Any) -> bool:
    """Whether ``at_hash``, where there is one, is that of the access token beside it."""
    if "at_hash" not in claims:
        return True
    half = sha256(str(access_token).encode()).digest()[:16]
    return claims["at_hash"] == urlsafe_b64encode(half).decode().rstrip("=")


def _word(error: Any) -> str:
    """An OAuth error code, when it looks like one."""
    good = isinstance(error, str) and error.isascii() and error.replace("_", "").isalpha()
    return error[:40] if good else "no reason given"


def _not_valid() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the identity provider's answer is not valid; begin anew at /api/v1/auth/oidc/start",
        code="token_invalid",
    )
