"""First boot: the organisation ``default``, its owner, realms, starter policies and agent.

A second boot creates nothing, and two that run at once create one set.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from agentcy_ray.api.founding import found_org
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.members import NewUser, add_user
from agentcy_ray.identity.passwords import Passwords
from agentcy_ray.stores.postgres import Database

ORG = "default"
LOCK_KEY = 0x61676E7463  # any constant that only first boots take


@dataclass(frozen=True)
class FirstBoot:
    """What a boot found or made."""

    created: bool
    org_id: UUID


async def first_boot(db: Database, settings: Settings, admin_password: str) -> FirstBoot:
    """Make the first rows when they are missing.

    Args:
        db: an already migrated database.
        settings: names the first owner.
        admin_password: the first owner's password, given or generated.
    """
    password_hash = await Passwords().hash(admin_password)
    async with db.system() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
        found = await connection.fetchval("SELECT id FROM organizations WHERE name = $1", ORG)
        if found is not None:
            return FirstBoot(created=False, org_id=found)
        org_id = await found_org(
            connection, "Default organisation", context_engine=settings.context_engine, name=ORG
        )
        owner = NewUser(
            settings.admin_email, "Owner", Role.OWNER, password_hash,
            must_change_password=not settings.is_demo,
        )  # fmt: skip
        await add_user(connection, org_id, owner)
    return FirstBoot(created=True, org_id=org_id)
