"""The door for new people."""

from __future__ import annotations

from fastapi import APIRouter, Request

from agentcy_ray.api.errors import request_id
from agentcy_ray.api.logins import Tokens, client_of, limit_login, tokens_of
from agentcy_ray.api.registration import Registration
from agentcy_ray.api.services import services_of
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.ids import encode

router = APIRouter(tags=["auth"])


@router.post("/auth/register", status_code=201)
async def register(body: Registration, request: Request) -> Tokens:
    """Join an organisation by an invite, or found one; answers as a login.

    Without a good invite, where one is needed, it is 403 `registration_closed`.
    """
    access = services_of(request).access
    client = client_of(request)
    await limit_login(request, body.email)
    joined = await access.registrar.join(body)
    await services_of(request).gates.audit.append(
        AuditEntry(
            org_id=joined.org_id,
            user_id=joined.user_id,
            category="auth",
            action="auth.register",
            decision="allow",
            resource={"type": "user", "id": encode("usr", joined.user_id), "email": body.email,
                      "role": joined.role.value, "invited": joined.invited},
            context={"ip": client.ip, "request_id": request_id(request),
                     "user_agent": client.user_agent},
        )
    )  # fmt: skip
    login = await access.identity.login(body.email, body.password, joined.org_name, client)
    return tokens_of(login)
