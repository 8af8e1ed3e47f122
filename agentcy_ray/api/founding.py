"""Founding an organisation: its row, realms, starter policies and agent.

First boot, registration and a first login by OIDC all come here, so an organisation is the same
however it began. Everything runs on the caller's connection, in one transaction of the system role.
"""

from __future__ import annotations

import re
import secrets
from typing import Any
from uuid import UUID

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import BUILT_IN_REALMS
from agentcy_ray.policy.store import install_starters

NAME_LENGTH = 63
"""Longest name of an organisation, which is a DNS label."""
_TRIES = 5
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
_NEW_ORG = """
INSERT INTO organizations (id, name, display_name, context_engine) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO NOTHING RETURNING id
"""


async def found_org(
    connection: Any, display_name: str, *, context_engine: str, name: str | None = None
) -> UUID:
    """A new organisation with realms, policies and agent, and nobody in it yet.

    Args:
        connection: inside a transaction of ``db.system()``.
        display_name: what people read.
        context_engine: ``basic`` or ``advanced``.
        name: its short name; None = made of ``display_name``, with a number where that is taken.

    Raises:
        LookupError: ``name`` was given and is taken.
    """
    org_id = new_id()
    wanted = slug(display_name) if name is None else name
    tries = [wanted] if name is not None else [wanted, *_others(wanted)]
    for text in tries:
        if await connection.fetchval(_NEW_ORG, org_id, text, display_name, context_engine):
            break
    else:
        raise LookupError(wanted)
    await connection.executemany(
        "INSERT INTO realms (org_id, name, description, built_in) VALUES ($1, $2, $3, true)",
        [(org_id, realm, _REALMS[realm]) for realm in BUILT_IN_REALMS],
    )
    await connection.execute(
        "INSERT INTO agents (id, org_id, name, description, instructions)"
        " VALUES ($1, $2, 'default', 'Answers and acts over everything', $3)",
        new_id(), org_id, _INSTRUCTIONS,
    )  # fmt: skip
    await install_starters(connection, org_id)
    return org_id


def slug(text: str) -> str:
    """A name of an organisation made of what people call it: ``Acme & Sons`` → ``acme-sons``."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[: NAME_LENGTH - 10].strip("-")
    return plain or "org"


def _others(wanted: str) -> list[str]:
    """Further names to try: counted, and at last one that nobody has."""
    counted = [f"{wanted}-{number}" for number in range(2, _TRIES)]
    return [*counted, f"{wanted}-{secrets.token_hex(4)}"]
