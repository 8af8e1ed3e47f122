"""Each route names its permission, which is also the policy action.

``Caller`` dependencies are made by ``permit("source.read")``; ``permit("any")`` asks for a login
alone. Permission comes first, then the organisation's policies on the action.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from agentcy_ray.api.errors import request_id
from agentcy_ray.api.services import services_of
from agentcy_ray.audit.entry import AuditDecision, AuditEntry, kept
from agentcy_ray.core.clock import SystemClock, rfc3339
from agentcy_ray.core.errors import PermissionDeniedError, PolicyDeniedError, UnauthenticatedError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.tenancy import Grant, Principal
from agentcy_ray.identity.tokens import Claims

ANY = "any"


@dataclass(frozen=True)
class Allowed:
    """A caller whom permission and policy let through."""

    principal: Principal
    claims: Claims | None
    """Of a login's token; None when an API key was sent."""
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

    def login(self) -> Claims:
        """The login that the caller came by.

        Raises:
            PermissionDeniedError: they came by an API key, or by a token of the OIDC issuer.
        """
        if self.claims is None:
            raise PermissionDeniedError(
                "neither an API key nor a token of the identity provider is a login here; log in "
                "at /api/v1/auth/login and send that token"
            )
        return self.claims


def permit(
    permission: str,
    *,
    asked_by_gateway: bool = False,
    handler_audits: bool = False,
    with_first_password: bool = False,
) -> Any:
    """A dependency that yields ``Allowed`` or refuses.

    Args:
        permission: a name of the catalog, or ``any``.
        asked_by_gateway: the handler makes a governed tool call, whose gateway puts the same
            question to the policies with the call's arguments, and audits it.
        handler_audits: the handler writes the entry of an allow, with more in it than is known
            here; a deny is written here all the same.
        with_first_password: also for who must change their password before anything else.
    """

    async def check(request: Request) -> Allowed:
        caller = request.scope["state"].get("caller")
        if caller is None:
            raise UnauthenticatedError("log in at /api/v1/auth/login and send the bearer token")
        principal: Principal = caller.principal
        if principal.must_change_password and not with_first_password:
            raise PermissionDeniedError(
                "change your password first, by POST /api/v1/auth/password or `agentcy password`",
                code="password_change_required",
            )
        if permission == ANY:
            return Allowed(principal, caller.claims, "full", request_id(request))
        grant = await _require(request, principal, permission)
        if not asked_by_gateway:
            await _ask_policy(request, principal, permission, quiet=handler_audits)
        return Allowed(principal, caller.claims, grant, request_id(request))

    check.permission = permission  # pyright: ignore[reportFunctionMemberAccess]
    return Depends(check)


async def also(request: Request, caller: Allowed, permission: str) -> None:
    """Ask for a second permission, for a part of a body that needs it.

    Raises:
        PermissionDeniedError, PolicyDeniedError: as a route's own permission; both are audited.
    """
    await _require(request, caller.principal, permission)
    await _ask_policy(request, caller.principal, permission, quiet=False)


@asynccontextmanager
async def denials_audited(request: Request, caller: Allowed, action: str) -> AsyncGenerator[None]:
    """Audit a refusal that the handler comes to, beyond the route's own permission."""
    try:
        yield
    except PermissionDeniedError as error:
        await _audit(request, caller.principal, action, "deny", reasons=(error.message,))
        raise


async def _require(request: Request, principal: Principal, permission: str) -> Grant:
    try:
        return principal.require(permission)
    except PermissionDeniedError as error:
        await _audit(request, principal, permission, "deny", reasons=(error.message,))
        raise


def permission_of(dependency: Callable[..., Awaitable[Any]] | None) -> str | None:
    """The permission that a dependency checks; None for any other dependency."""
    return getattr(dependency, "permission", None)


async def _ask_policy(request: Request, principal: Principal, action: str, *, quiet: bool) -> None:
    """Evaluate the organisation's policies on the request, and keep the decision.

    Raises:
        PolicyDeniedError: a policy denies, or fails; the denial is in the audit log.
    """
    services = services_of(request)
    question = policy_input(request, principal, action)
    decision = await services.gates.policy.decide(principal.org_id, question)
    if decision.decision == "deny" or (kept(action, "allow") and not quiet):
        await _audit(
            request, principal, action, decision.decision, reasons=tuple(decision.reasons),
            rule=decision.rule, policy_id=decision.policy_id, question=question,
        )  # fmt: skip
    if decision.decision == "deny":
        raise PolicyDeniedError(
            "policy denies this: " + "; ".join(decision.reasons),
            reasons=list(decision.reasons),
            rule=decision.rule,
        )


async def _audit(
    request: Request,
    principal: Principal,
    action: str,
    decision: AuditDecision,
    *,
    reasons: tuple[str, ...],
    rule: str | None = None,
    policy_id: str | None = None,
    question: dict[str, Any] | None = None,
) -> None:
    question = question or policy_input(request, principal, action)
    await services_of(request).gates.audit.append(
        AuditEntry(
            org_id=principal.org_id,
            user_id=principal.user_id,
            api_key_id=principal.api_key_id,
            category="policy",
            action=action,
            decision=decision,
            resource=question["resource"],
            policy_id=policy_id,
            rule=rule,
            reasons=reasons,
            input=question,
            context={
                "ip": question["context"]["ip"],
                "request_id": question["context"]["request_id"],
            },
        )
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
            "api_key_id": encode("key", key) if (key := principal.api_key_id) else None,
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
            "instance_mode": services_of(request).settings.instance_mode,
        },
    }


AnyCaller = Annotated[Allowed, permit(ANY)]
AnyLogin = Annotated[Allowed, permit(ANY, with_first_password=True)]
"""Any caller, even one who must change their password: for the routes by which they do."""
