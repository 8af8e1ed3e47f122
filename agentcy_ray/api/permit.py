"""Each route names its permission, which is also the policy action.

``Caller`` dependencies are made by ``permit("source.read")``; ``permit("any")`` asks for a login
alone. Permission comes first, then the organisation's policies on the action.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from agentcy_ray.api.errors import request_id
from agentcy_ray.core.clock import SystemClock, rfc3339
from agentcy_ray.core.errors import PolicyDeniedError, UnauthenticatedError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.tenancy import Grant, Principal
from agentcy_ray.identity.tokens import Claims

ANY = "any"


@dataclass(frozen=True)
class Allowed:
    """A caller whom permission and policy let through."""

    principal: Principal
    claims: Claims
    grant: Grant
    request_id: str

    @property
    def org_id(self) -> Any:
        """The caller's organisation."""
        return self.principal.org_id

    @property
    def own_only(self) -> bool:
        """Whether only the caller's own objects may be touched."""
        return self.grant == "own"


def permit(permission: str) -> Any:
    """A dependency that yields ``Allowed`` or refuses."""

    async def check(request: Request) -> Allowed:
        caller = request.scope["state"].get("caller")
        if caller is None:
            raise UnauthenticatedError("log in at /api/v1/auth/login and send the bearer token")
        principal: Principal = caller.principal
        if permission == ANY:
            return Allowed(principal, caller.claims, "full", request_id(request))
        grant = principal.require(permission)
        await _ask_policy(request, principal, permission)
        return Allowed(principal, caller.claims, grant, request_id(request))

    check.permission = permission  # pyright: ignore[reportFunctionMemberAccess]
    return Depends(check)


def permission_of(dependency: Callable[..., Awaitable[Any]] | None) -> str | None:
    """The permission that a dependency checks; None for any other dependency."""
    return getattr(dependency, "permission", None)


async def _ask_policy(request: Request, principal: Principal, action: str) -> None:
    """Evaluate the organisation's policies on the request.

    Raises:
        PolicyDeniedError: a policy denies, or fails; the denial is in the audit log.
    """
    services = request.app.state.services
    decision = await services.policy.decide(
        principal.org_id, policy_input(request, principal, action)
    )
    if decision.decision == "deny":
        await services.audit_denied_request(principal, action, decision, request_id(request))
        raise PolicyDeniedError(
            "policy denies this: " + "; ".join(decision.reasons),
            reasons=list(decision.reasons),
            rule=decision.rule,
        )


def policy_input(request: Request, principal: Principal, action: str) -> dict[str, Any]:
    """The policy input of a request action, §6 of the product specification."""
    client = request.client
    return {
        "subject": {
            "user_id": encode("usr", principal.user_id),
            "org_id": encode("org", principal.org_id),
            "role": principal.role.value,
            "external_id": principal.external_id,
            "api_key_id": None,
            "channel": principal.channel,
        },
        "action": action,
        "resource": {
            "type": action.partition(".")[0],
            "id": next(iter(request.path_params.values()), None),
            "method": request.method,
            "path": request.url.path,
        },
        "context": {
            "approval_granted": False,
            "ip": client.host if client else None,
            "realm": None,
            "request_id": request_id(request),
            "run_id": None,
            "agent": None,
            "parent_run_id": None,
        },
        "env": {
            "now": rfc3339(SystemClock().now()),
            "instance_mode": request.app.state.services.settings.instance_mode,
        },
    }


AnyCaller = Annotated[Allowed, permit(ANY)]
