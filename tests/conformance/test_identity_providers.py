"""What every identity provider must do, asked of the local one and of OIDC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.provider import IdentityProvider, Providers
from tests.identity.conftest import (
    PASSWORD,
    Desk,
    OidcDesk,
    desk,
    identity_url,
    issuer,
    oidc_desk,
    password_hash,
    redis,
    served_issuer,
)

pytestmark = pytest.mark.requirement("AUTH-01")

FIXTURES = (desk, identity_url, issuer, oidc_desk, password_hash, redis, served_issuer)


@dataclass
class Subject:
    """A provider, and somebody whom it knows."""

    provider: IdentityProvider
    other: IdentityProvider
    token: Callable[[], Awaitable[str]]
    """A fresh token of that person."""
    desk: Desk

    async def user_id(self) -> UUID:
        return (await self.provider.verify(await self.token())).principal.user_id

    async def set(self, assignment: str) -> None:
        user_id = await self.user_id()
        async with self.desk.db.system() as connection:
            await connection.execute(f"UPDATE users SET {assignment} WHERE id = $1", user_id)


@pytest.fixture(params=["local", "oidc"])
async def subject(request: pytest.FixtureRequest, desk: Desk, oidc_desk: OidcDesk) -> Subject:
    oidc = oidc_desk.open().provider

    async def by_password() -> str:
        return (await desk.identity.login("ada@acme.test", PASSWORD)).token

    async def by_issuer() -> str:
        return oidc_desk.issuer.token()

    if request.param == "local":
        return Subject(desk.identity, oidc, by_password, desk)
    return Subject(oidc, desk.identity, by_issuer, desk)


async def test_a_good_token_stands_for_its_holder_in_their_organisation(subject: Subject) -> None:
    found = await subject.provider.verify(await subject.token())
    again = await subject.provider.verify(await subject.token())
    assert found.principal.org_id == subject.desk.org_id
    assert found.principal.role is Role.MEMBER
    assert found.principal.auth == subject.provider.name
    assert again.principal.user_id == found.principal.user_id
    now = subject.desk.clock.now().timestamp()
    assert now < found.expires_at <= now + 3600


async def test_a_principal_is_what_the_database_says_now(subject: Subject) -> None:
    token = await subject.token()
    await subject.set("roles = '{viewer,admin}', realms = '{crm}', permissions = '{org.billing}'")
    principal = (await subject.provider.verify(token)).principal
    assert (principal.role, principal.realms) == (Role.ADMIN, ("crm",))
    assert principal.grant("org.billing") == "full"


async def test_the_token_of_a_disabled_or_deleted_account_is_refused(subject: Subject) -> None:
    token = await subject.token()
    await subject.set("active = false")
    with pytest.raises(UnauthenticatedError) as refused:
        await subject.provider.verify(token)
    assert refused.value.code == "token_invalid"


async def test_a_token_ends(subject: Subject) -> None:
    token = await subject.token()
    await subject.provider.verify(token)
    subject.desk.clock.ahead = timedelta(hours=2)
    with pytest.raises(UnauthenticatedError) as refused:
        await subject.provider.verify(token)
    assert refused.value.code == "token_expired"


async def test_a_token_is_verified_by_the_provider_of_its_issuer_alone(subject: Subject) -> None:
    token = await subject.token()
    with pytest.raises(UnauthenticatedError):
        await subject.other.verify(token)
    for order in ([subject.provider, subject.other], [subject.other, subject.provider]):
        found = await Providers(order).verify(token)
        assert found.principal.auth == subject.provider.name
    with pytest.raises(UnauthenticatedError):
        await Providers([subject.other]).verify(token)


async def test_it_names_itself_and_its_issuer(subject: Subject) -> None:
    assert subject.provider.name in ("local", "oidc")
    assert await subject.provider.issuer() != await subject.other.issuer()
