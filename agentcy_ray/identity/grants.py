"""What one may hand on: never more than one holds.

A change is judged by what its subject gains. Narrowing somebody's rights grants nothing, so whoever
may change users may do that; widening them asks for each right that is new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentcy_ray.core.errors import InvalidError, PermissionDeniedError
from agentcy_ray.core.tenancy import PERMISSIONS, ROLE_MATRIX, ROLE_ORDER, Grant, Principal, Role


@dataclass(frozen=True)
class Holding:
    """The rights of a user, or those that they are to have."""

    role: Role
    permissions: tuple[str, ...] = ()
    """Direct grants beyond the role."""
    realms: tuple[str, ...] | None = None
    """None = every realm."""

    def powers(self) -> dict[str, Grant]:
        """Permission → how far it is granted."""
        rows = ROLE_MATRIX.items()
        by_role: dict[str, Grant] = {name: row[self.role] for name, row in rows if self.role in row}
        for name in self.permissions:
            by_role[name] = "full"
        return by_role


def covers(have: Grant | None, wanted: Grant) -> bool:
    """Whether a grant holds another one; ``own`` and ``read_only`` do not hold each other."""
    return have in ("full", wanted)


def require_within(principal: Principal, after: Holding, before: Holding | None = None) -> None:
    """Make sure that what a user gains is the caller's to give.

    Args:
        principal: who grants it; a key has no more than its scope.
        after: what the user is to have.
        before: what they have; None = nothing.

    Raises:
        PermissionDeniedError: names the rights that the caller lacks.
    """
    held = {} if before is None else before.powers()
    missing = sorted(
        name
        for name, grant in after.powers().items()
        if not covers(held.get(name), grant) and not covers(principal.grant(name), grant)
    )
    if missing:
        raise PermissionDeniedError(
            f"nobody grants more than they hold, and you lack {missing[0]!r}; "
            "ask somebody who has it",
            permission=missing[0],
            missing=missing,
        )
    _require_realms(principal, after.realms, () if before is None else before.realms)


def require_rank(principal: Principal, role: Role) -> None:
    """Make sure that a user is not above the caller, who wants to change or end them.

    Raises:
        PermissionDeniedError: their role is above the caller's.
    """
    if ROLE_ORDER.index(role) < ROLE_ORDER.index(principal.role):
        raise PermissionDeniedError(
            f"a {principal.role.value} may not change a user of role {role.value!r}; "
            f"ask a user of that role"
        )


def known_permissions(names: Iterable[str]) -> tuple[str, ...]:
    """The names, sorted and each once.

    Raises:
        InvalidError: one is not in the catalog.
    """
    wanted = sorted(set(names))
    unknown = [name for name in wanted if name not in PERMISSIONS]
    if unknown:
        raise InvalidError(
            f"there is no permission {unknown[0]!r}; GET /api/v1/auth/me lists those you have",
            permissions=unknown,
        )
    return tuple(wanted)


def _require_realms(
    principal: Principal, after: tuple[str, ...] | None, before: tuple[str, ...] | None
) -> None:
    if principal.realms is None or before is None:
        return
    beyond = None if after is None else sorted(set(after) - set(before) - set(principal.realms))
    if beyond is None or beyond:
        wanted = "every realm" if beyond is None else f"the realm {beyond[0]!r}"
        raise PermissionDeniedError(
            f"nobody grants more than they hold, and you are limited to "
            f"{', '.join(principal.realms) or 'no realm'}; ask somebody who has {wanted}"
        )
