"""Log in, stay logged in, log out."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import Request as PlainRequest
from starlette.responses import Response as PlainResponse

from agentcy_ray.api.errors import request_id
from agentcy_ray.api.permit import AnyCaller
from agentcy_ray.api.services import services_of
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.errors import RefusedError, UnauthenticatedError
from agentcy_ray.core.ids import OrgId, UserId, encode
from agentcy_ray.core.tenancy import PERMISSIONS, Role
from agentcy_ray.identity.local import Account, Client, Login
from agentcy_ray.identity.revocation import Revoked

router = APIRouter(tags=["auth"])


class Credentials(BaseModel):
    """E-mail and password; ``org`` when the e-mail exists in several organisations."""

    email: str = Field(min_length=3, max_length=254, examples=["admin@localhost"])
    password: str = Field(min_length=1, max_length=256)
    org: str | None = None


class RefreshToken(BaseModel):
    """A refresh token; it works once."""

    refresh_token: str = Field(min_length=8, max_length=256)


class UserView(BaseModel):
    """A user as answers show them."""

    id: UserId
    email: str
    role: Role


class Tokens(BaseModel):
    """What a login answers."""

    token: str
    token_type: str = "bearer"  # noqa: S105 - the name of a scheme
    expires_in: int
    refresh_token: str
    user: UserView


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


class PasswordChange(BaseModel):
    """The current password and the new one."""

    current: str
    new: str


@router.get("/auth/config")
async def auth_config(request: Request) -> AuthConfig:
    """Which providers are on."""
    return AuthConfig(
        providers=["local"], registration=request.app.state.settings.auth_registration
    )


@router.post("/auth/login")
async def login(body: Credentials, request: Request) -> Tokens:
    """Exchange e-mail and password for an access and a refresh token."""
    services, client = services_of(request), _client(request)
    await services.access.login_limit.check(f"{client.ip}:{body.email.lower()}")
    try:
        login = await services.access.identity.login(body.email, body.password, body.org, client)
    except RefusedError as error:
        account = await services.access.identity.account_of(body.email, body.org)
        _note_refusal(request, "auth.login", account, error, email=body.email)
        raise
    await _audit(request, "auth.login", login.org_id, login.user_id)
    return _answer(login)


@router.post("/auth/refresh")
async def refresh(body: RefreshToken, request: Request) -> Tokens:
    """Exchange a refresh token for a new pair; a used one ends its whole login."""
    identity = services_of(request).access.identity
    try:
        return _answer(await identity.refresh(body.refresh_token, _client(request)))
    except RefusedError as error:
        account = await identity.holder_of(body.refresh_token)
        _note_refusal(request, "auth.refresh", account, error)
        raise


@router.post("/auth/logout", status_code=204)
async def logout(caller: AnyCaller, request: Request) -> Response:
    """End this login and its refresh tokens."""
    services, claims = services_of(request), caller.login()
    await services.access.identity.logout(claims)
    await services.access.revocations.tell(Revoked(session_id=claims.session_id))
    await _audit(request, "auth.logout", caller.org_id, caller.principal.user_id)
    return Response(status_code=204)


@router.get("/auth/me")
async def me(caller: AnyCaller, request: Request) -> Me:
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
    )


@router.post("/auth/password", status_code=204)
async def change_password(body: PasswordChange, caller: AnyCaller, request: Request) -> Response:
    """Set a new password; other sessions end."""
    principal = caller.principal
    caller.login()
    try:
        await services_of(request).access.identity.change_password(
            principal, body.current, body.new
        )
    except RefusedError as error:
        account = Account(principal.org_id, principal.user_id)
        _note_refusal(request, "auth.password", account, error)
        raise
    await services_of(request).access.revocations.tell(Revoked(user_id=principal.user_id))
    await _audit(request, "auth.password", principal.org_id, principal.user_id)
    return Response(status_code=204)


async def ping(request: PlainRequest) -> PlainResponse:
    """The cheapest authenticated route: what the way in costs, for benchmarks and probes."""
    if request.scope["state"].get("caller") is None:
        raise UnauthenticatedError("log in at /api/v1/auth/login and send the bearer token")
    return PlainResponse(b'{"ok":true}', media_type="application/json")


async def _audit(request: Request, action: str, org_id: UUID, user_id: UUID) -> None:
    await services_of(request).gates.audit.append(
        AuditEntry(
            org_id=org_id,
            user_id=user_id,
            category="auth",
            action=action,
            decision="allow",
            resource={"type": "login", "id": encode("usr", user_id)},
            context=_occasion(request),
        )
    )


def _note_refusal(
    request: Request, action: str, account: Account | None, error: RefusedError, **seen: str
) -> None:
    """Audit a refusal without waiting: how long an answer takes must not tell who exists."""
    if account is None:
        return
    user = None if account.user_id is None else encode("usr", account.user_id)
    services_of(request).gates.audit.note(
        AuditEntry(
            org_id=account.org_id,
            user_id=account.user_id,
            category="auth",
            action=action,
            decision="deny",
            resource={"type": "login", "id": user, **seen},
            reasons=(error.code, error.message),
            context=_occasion(request),
        )
    )


def _occasion(request: Request) -> dict[str, Any]:
    client = _client(request)
    return {
        "ip": client.ip,
        "request_id": request_id(request),
        "user_agent": client.user_agent or None,
    }


def _client(request: Request) -> Client:
    agent = request.headers.get("user-agent", "")[:200]
    return Client(ip=request.client.host if request.client else None, user_agent=agent)


def _answer(login: Login) -> Any:
    return Tokens(
        token=login.token,
        expires_in=login.expires_in,
        refresh_token=login.refresh_token,
        user=UserView(id=login.user_id, email=login.email, role=login.role),
    )
