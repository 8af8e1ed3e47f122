"""What every kind of login shares: where it comes from, what it answers, and its audit entries."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel, Field

from agentcy_ray.api.errors import request_id
from agentcy_ray.api.services import services_of
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.ids import UserId, encode
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.sessions import Account, Client, Login


class UserView(BaseModel):
    """A user as answers show them."""

    id: UserId
    email: str
    role: Role


class Tokens(BaseModel):
    """What a login answers; ``refresh_token`` is null for a browser, which has it as a cookie."""

    token: str = Field(repr=False)
    token_type: str = "bearer"  # noqa: S105 - the name of a scheme
    expires_in: int
    refresh_token: str | None = Field(repr=False)
    user: UserView


def tokens_of(login: Login, *, in_cookie: bool = False) -> Tokens:
    """The answer to a login."""
    return Tokens(
        token=login.token,
        expires_in=login.expires_in,
        refresh_token=None if in_cookie else login.refresh_token,
        user=UserView(id=login.user_id, email=login.email, role=login.role),
    )


def client_of(request: Request) -> Client:
    """Where a request comes from."""
    agent = request.headers.get("user-agent", "")[:200]
    return Client(ip=request.client.host if request.client else None, user_agent=agent)


def counted(client: Client) -> str:
    """What tries from an address are counted by: all of a network that one customer has.

    Whoever has an IPv6 address has as a rule 2^64 of them.
    """
    try:
        found = ip_address(client.ip or "")
    except ValueError:
        return str(client.ip)
    return str(ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


async def limit_login(request: Request, email: str) -> None:
    """Count a try to log in or to register.

    Raises:
        RateLimitedError: there were too many for this e-mail, or for whatever e-mails, from there.
    """
    access, source = services_of(request).access, counted(client_of(request))
    await access.session_limit.check(f"login:{source}")
    await access.login_limit.check(f"{source}:{email.lower()}")


async def note_login(request: Request, action: str, org_id: UUID, user_id: UUID) -> None:
    """Audit that somebody came in, or went."""
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


def note_refusal(
    request: Request, action: str, account: Account | None, error: AgentcyError, **seen: str
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
    client = client_of(request)
    return {
        "ip": client.ip,
        "request_id": request_id(request),
        "user_agent": client.user_agent or None,
    }
