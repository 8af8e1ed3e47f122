"""Who acts, for which organisation, and what they may do.

The organisation is the tenant. A ``Principal`` is frozen for the length of a request; the name of a
permission is at once the policy action and the audit action.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import PermissionDeniedError
from agentcy_ray.core.ids import OrgId, UserId


class Role(StrEnum):
    """Roles from most to least powerful."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


ROLE_ORDER = (Role.OWNER, Role.ADMIN, Role.MEMBER, Role.VIEWER)


def highest(roles: Iterable[str]) -> Role:
    """The most powerful of a user's roles; viewer when there is none that we know."""
    held = frozenset(roles)
    return next((role for role in ROLE_ORDER if role.value in held), Role.VIEWER)


BUILT_IN_REALMS = (
    "infrastructure",
    "development",
    "crm",
    "design",
    "data",
    "knowledge",
    "default",
)

Grant = Literal["full", "own", "read_only"]
Channel = Literal[
    "ui", "api", "cli", "slack", "email", "webchat", "webhook", "whatsapp",
    "task", "workflow", "subagent", "mcp", "worker",
]  # fmt: skip

_ALL, _MEMBERS, _ADMINS, _OWNER = 4, 3, 2, 1


def _matrix() -> dict[str, dict[Role, Grant]]:
    """The role matrix of the product specification, §5.2."""
    table: dict[str, dict[Role, Grant]] = {}

    def grant(names: str, ranks: int, **special: Grant) -> None:
        for name in names.split():
            row: dict[Role, Grant] = dict.fromkeys(ROLE_ORDER[:ranks], "full")
            row.update({Role(role): how for role, how in special.items()})
            table[name] = row

    grant("chat.read chat.write", _ALL, member="own", viewer="own")
    grant("chat.tool.execute", _ALL, viewer="read_only")
    grant("chat.approve", _MEMBERS, member="own")
    grant("llm.invoke rag.search graph.read graph.query source.read activity.write", _ALL)
    grant("source.create source.update source.delete", _ADMINS)
    grant("source.sync access.request", _MEMBERS)
    grant(
        "access.decide graph.native graph.write realm.write embedding.manage engine.migrate",
        _ADMINS,
    )
    grant("pipeline.read", _ALL)
    grant("pipeline.run", _MEMBERS)
    grant("pipeline.write", _ADMINS)
    grant("memory.read", _ALL)
    grant("memory.write", _MEMBERS)
    grant("memory.delete", _MEMBERS, member="own")
    grant("agent.read task.read workflow.read channel.read artifact.read coding.read", _ALL)
    grant("task.write task.run task.cancel workflow.run artifact.write coding.write", _MEMBERS)
    grant("agent.write workflow.write channel.write binding.write", _ADMINS)
    grant("policy.read policy.write audit.read activity.read job.read job.manage", _ADMINS)
    grant("worker.read worker.manage", _ADMINS)
    grant("org.read org.write org.invite user.read user.write apikey.read apikey.write", _ADMINS)
    grant("org.delete org.billing org.transfer", _OWNER)
    return table


ROLE_MATRIX: dict[str, dict[Role, Grant]] = _matrix()
PERMISSIONS: frozenset[str] = frozenset(ROLE_MATRIX)


class Principal(BaseModel):
    """The one who acts: a person, a key or a part of the system, inside one organisation."""

    model_config = ConfigDict(frozen=True)

    user_id: UserId
    org_id: OrgId
    role: Role
    permissions: tuple[str, ...] = ()
    """Direct grants beyond the role."""
    realms: tuple[str, ...] | None = None
    """Realms that this principal is limited to; None = all realms of the organisation."""
    channel: Channel = "api"
    auth: Literal["local", "oidc", "api_key", "webchat", "system"] = "local"
    external_id: str | None = None
    session_id: UUID | None = None
    api_key_id: UUID | None = None
    scope: tuple[str, ...] | None = None
    """The only permissions that a key may use of its owner's; None = no such limit."""
    rpm: int | None = None
    """Requests a minute that a key is limited to; None = its owner's limit."""
    must_change_password: bool = False
    """Whether this login may do nothing before its password was changed."""

    def grant(self, permission: str) -> Grant | None:
        """How far ``permission`` is granted: ``full``, ``own``, ``read_only`` or not at all."""
        if permission not in PERMISSIONS:
            raise KeyError(f"no permission {permission!r} in the catalog of core/tenancy.py")
        if self.scope is not None and permission not in self.scope:
            return None
        if permission in self.permissions:
            return "full"
        return ROLE_MATRIX[permission].get(self.role)

    def require(self, permission: str) -> Grant:
        """The grant of ``permission``.

        Raises:
            PermissionDeniedError: neither the role nor a direct grant holds it, or a key's scope
                leaves it out.
        """
        found = self.grant(permission)
        if found is None and self.scope is not None and permission not in self.scope:
            raise PermissionDeniedError(
                f"the API key's scope leaves out {permission!r}; make a key that has it",
                permission=permission,
            )
        if found is None:
            raise PermissionDeniedError(
                f"role {self.role.value!r} lacks permission {permission!r}; "
                "ask an admin of your organisation for it",
                permission=permission,
            )
        return found

    def bind_realms(self, asked: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The realms that a query may touch: what was asked, cut to what is allowed.

        Returns None for "every realm", which only an unlimited principal gets.
        """
        if self.realms is None:
            return asked
        return self.realms if asked is None else tuple(r for r in asked if r in self.realms)
