"""Entries about what a request has changed, beside the one about whether it was allowed to."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from agentcy_ray.api.permit import Allowed
from agentcy_ray.api.services import services_of
from agentcy_ray.audit.entry import AuditEntry


async def witness(request: Request, caller: Allowed, action: str, resource: dict[str, Any]) -> None:
    """Write an entry of category ``admin``, durable on return.

    Args:
        request: the request that made the change.
        caller: who did.
        action: what was done, ``<domain>.<verb>``.
        resource: what it was done to, as it is now.

    Raises:
        StoreUnavailableError, StorageFullError: it is not known to be durable; the change stands.
    """
    client = request.client
    await services_of(request).gates.audit.append(
        AuditEntry(
            org_id=caller.org_id,
            user_id=caller.principal.user_id,
            api_key_id=caller.principal.api_key_id,
            category="admin",
            action=action,
            decision="allow",
            resource=resource,
            context={"ip": client.host if client else None, "request_id": caller.request_id},
        )
    )
