"""First boot: the organisation ``default``, its owner, realms, starter policies and agent.

A second boot creates nothing, and two that run at once create one set.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import BUILT_IN_REALMS, Role
from agentcy_ray.identity.passwords import Passwords
from agentcy_ray.policy.store import install_starters
from agentcy_ray.stores.postgres import Database

ORG = "default"
LOCK_KEY = 0x61676E7463  # any constant that only first boots take

_INSTRUCTIONS = (
    "You answer questions about this company's own systems. Cite what you use, say when you do not "
    "know, and use tools through execute_connector_tool when the answer needs them."
)
_REALMS = {
    "infrastructure": "Clusters, hosts, networks, cloud resources",
    "development": "Repositories, commits, pull requests, builds",
    "crm": "Customers, accounts, deals",
    "design": "Designs and their assets",
    "data": "Databases, tables, dashboards",
    "knowledge": "Documents, notes, messages",
    "default": "What belongs to no other realm",
}


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
        org_id = new_id()
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name, context_engine)"
            " VALUES ($1, $2, $3, $4)",
            org_id, ORG, "Default organisation", settings.context_engine,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO users (id, org_id, email, name, roles, password_hash,"
            " must_change_password) VALUES ($1, $2, $3, 'Owner', $4, $5, true)",
            new_id(), org_id, settings.admin_email, [Role.OWNER.value], password_hash,
        )  # fmt: skip
        await connection.executemany(
            "INSERT INTO realms (org_id, name, description, built_in) VALUES ($1, $2, $3, true)",
            [(org_id, name, _REALMS[name]) for name in BUILT_IN_REALMS],
        )
        await connection.execute(
            "INSERT INTO agents (id, org_id, name, description, instructions)"
            " VALUES ($1, $2, 'default', 'Answers and acts over everything', $3)",
            new_id(), org_id, _INSTRUCTIONS,
        )  # fmt: skip
        await install_starters(connection, org_id)
    return FirstBoot(created=True, org_id=org_id)
