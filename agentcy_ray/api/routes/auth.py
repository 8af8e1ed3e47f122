"""Log in, stay logged in, log out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import Request as PlainRequest
from starlette.responses import Response as PlainResponse

from agentcy_ray.api import cookies
from agentcy_ray.api.logins import (
    Tokens,
    UserView,
    client_of,
    counted,
    limit_login,
    note_login,
    note_refusal,
    tokens_of,
)
from agentcy_ray.api.permit import AnyLogin
from agentcy_ray.api.services import services_of
from agentcy_ray.core.access_settings import PROVIDERS
from agentcy_ray.core.errors import RefusedError, UnauthenticatedError
from agentcy_ray.core.ids import OrgId
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import PERMISSIONS, Role
from agentcy_ray.identity.passwords import MAX_LENGTH
from agentcy_ray.identity.revocation import Revoked
from agentcy_ray.identity.sessions import Account

router = APIRouter(tags=["auth"])


class Credentials(BaseModel):
    """E-mail and password; ``org`` when the e-mail exists in several organisations."""

    email: str = Field(min_length=3, max_length=254, examples=["admin@localhost"])
    password: str = Field(min_length=1, max_length=256, repr=False)
    org: str | None = None


class RefreshToken(BaseModel):
    """A refresh token; it works once."""

    refresh_token: str = Field(min_length=8, max_length=256, repr=False)


class AuthConfig(BaseModel):
    """How one may log in here."""

    providers: list[str]
    registration: str


class OrgView(BaseModel):
    """The caller's organisation."""

    id: OrgId
    name: str


class Me(BaseModel):
    """Who the caller is, and what they may do."""

    user: UserView
    org: OrgView
    role: Role
    permissions: list[str]
    realms: list[str] | None
    must_change_password: bool
    """Whether nothing else is allowed before `POST /auth/password`."""


class PasswordChange(BaseModel):
    """The current password and the new one."""

    current: str = Field(max_length=MAX_LENGTH, repr=False)
    new: str = Field(max_length=MAX_LENGTH, repr=False)


@router.get("/auth/config")
async def auth_config(request: Request) -> AuthConfig:
    """Which providers are on."""
    settings: Settings = request.app.state.settings
    return AuthConfig(
        providers=[name for name in PROVIDERS if name in settings.auth_provider],
        # Whoever registers chooses a password.
        registration=settings.auth_registration if "local" in settings.auth_provider else "off",
    )


@router.post("/auth/login")
async def login(body: Credentials, request: Request) -> Tokens:
    """Exchange e-mail and password for an access and a refresh token."""
    services, client = services_of(request), client_of(request)
    await limit_login(request, body.email)
    try:
        login = await services.access.identity.login(body.email, body.password, body.org, client)
    except RefusedError as error:
        account = await services.access.identity.account_of(body.email, body.org)
        note_refusal(request, "auth.login", account, error, email=body.email)
        raise
    await note_login(request, "auth.login", login.org_id, login.user_id)
    return tokens_of(login)


@router.post("/auth/refresh")
async def refresh(request: Request, response: Response, body: RefreshToken | None = None) -> Tokens:
    """Exchange a refresh token for a new pair; a used one ends its whole login.

    The token comes in the body, or as the cookie of a browser, which then gets the next one so.
    """
    services, client = services_of(request), client_of(request)
    token = body.refresh_token if body else cookies.refresh_of(request, services.settings)
    if token is None:
        raise UnauthenticatedError("send the refresh token, or log in anew", code="token_invalid")
    await services.access.session_limit.check(f"refresh:{counted(client)}")
    try:
        login = await services.access.identity.refresh(token, client)
    except RefusedError as error:
        account = await services.access.identity.holder_of(token)
        note_refusal(request, "auth.refresh", account, error)
        raise
    if body is None:
        cookies.set_refresh(response, login.refresh_token, services.settings)
    return tokens_of(login, in_cookie=body is None)


@router.post("/auth/logout", status_code=204)
async def logout(caller: AnyLogin, request: Request) -> Response:
    """End this login and its refresh tokens."""
    services, claims = services_of(request), caller.login()
    await services.access.identity.logout(claims)
    await services.access.revocations.tell(Revoked(session_id=claims.session_id))
    await note_login(request, "auth.logout", caller.org_id, caller.principal.user_id)
    response = Response(status_code=204)
    cookies.drop_refresh(response, services.settings)
    return response


@router.get("/auth/me")
async def me(caller: AnyLogin, request: Request) -> Me:
    """The caller with their permissions."""
    principal = caller.principal
    async with services_of(request).db.tenant(principal.org_id) as connection:
        row = await connection.fetchrow(
            "SELECT u.email, o.name FROM users u, organizations o WHERE u.id = $1",
            principal.user_id,
        )
    if row is None:
        raise UnauthenticatedError("this account is gone; log in anew")
    return Me(
        user=UserView(id=principal.user_id, email=row["email"], role=principal.role),
        org=OrgView(id=principal.org_id, name=row["name"]),
        role=principal.role,
        permissions=sorted(name for name in PERMISSIONS if principal.grant(name)),
        realms=None if principal.realms is None else list(principal.realms),
        must_change_password=principal.must_change_password,
    )


@router.post("/auth/password", status_code=204)
async def change_password(body: PasswordChange, caller: AnyLogin, request: Request) -> Response:
    """Set a new password; other sessions end."""
    principal, access = caller.principal, services_of(request).access
    caller.login()
    # Whoever has found an open browser must not find out the password in it.
    await access.login_limit.check(f"password:{principal.user_id.hex}")
    try:
        await access.identity.change_password(principal, body.current, body.new)
    except RefusedError as error:
        account = Account(principal.org_id, principal.user_id)
        note_refusal(request, "auth.password", account, error)
        raise
    await access.revocations.tell(Revoked(user_id=principal.user_id))
    await note_login(request, "auth.password", principal.org_id, principal.user_id)
    return Response(status_code=204)


async def ping(request: PlainRequest) -> PlainResponse:
    """The cheapest authenticated route: what the way in costs, for benchmarks and probes."""
    if request.scope["state"].get("caller") is None:
        raise UnauthenticatedError("log in at /api/v1/auth/login and send the bearer token")
    return PlainResponse(b'{"ok":true}', media_type="application/json")
