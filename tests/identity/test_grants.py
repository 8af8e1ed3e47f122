"""What may be handed on, for any caller and any change."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.core.errors import PermissionDeniedError
from agentcy_ray.core.tenancy import PERMISSIONS, Principal, Role
from agentcy_ray.identity.grants import Holding, covers, require_rank, require_within

NOBODY = UUID(int=0)
ROLES = st.sampled_from(Role)
SOME = st.lists(st.sampled_from(sorted(PERMISSIONS)), max_size=4, unique=True).map(tuple)
REALMS = st.none() | st.lists(st.sampled_from(["a", "b", "c"]), unique=True).map(tuple)
HOLDINGS = st.builds(Holding, role=ROLES, permissions=SOME, realms=REALMS)
SCOPES = st.none() | st.lists(st.sampled_from(sorted(PERMISSIONS)), unique=True).map(tuple)


def somebody(holding: Holding, scope: tuple[str, ...] | None = None) -> Principal:
    return Principal(
        user_id=NOBODY, org_id=NOBODY, role=holding.role, permissions=holding.permissions,
        realms=holding.realms, scope=scope,
    )  # fmt: skip


@pytest.mark.requirement("RBAC-03")
@given(HOLDINGS, SCOPES, HOLDINGS, st.none() | HOLDINGS)
def test_a_change_that_is_let_through_gives_nothing_beyond_what_was_there_and_the_callers(
    caller: Holding, scope: tuple[str, ...] | None, after: Holding, before: Holding | None
) -> None:
    maker = somebody(caller, scope)
    try:
        require_within(maker, after, before)
    except PermissionDeniedError:
        return
    subject, earlier = somebody(after), None if before is None else somebody(before)
    for name in PERMISSIONS:
        grant = subject.grant(name)
        if grant is not None:
            had = None if earlier is None else earlier.grant(name)
            assert covers(had, grant) or covers(maker.grant(name), grant), name
    for realm in ("a", "b", "c", "another"):
        if subject.bind_realms((realm,)):
            had_it = earlier is not None and bool(earlier.bind_realms((realm,)))
            assert had_it or maker.bind_realms((realm,)), realm


@given(HOLDINGS, SCOPES, HOLDINGS)
def test_narrowing_is_never_refused(
    caller: Holding, scope: tuple[str, ...] | None, holding: Holding
) -> None:
    maker = somebody(caller, scope)
    require_within(maker, holding, holding)
    fewer = Holding(Role.VIEWER, holding.permissions[1:], () if holding.realms else holding.realms)
    if holding.role is not Role.VIEWER:
        powers = holding.powers()
        if all(covers(powers.get(name), grant) for name, grant in fewer.powers().items()):
            require_within(maker, fewer, holding)


def test_nobody_reaches_up() -> None:
    order = list(Role)
    for mine in order:
        for theirs in order:
            maker = somebody(Holding(mine))
            if order.index(theirs) < order.index(mine):
                with pytest.raises(PermissionDeniedError):
                    require_rank(maker, theirs)
            else:
                require_rank(maker, theirs)
