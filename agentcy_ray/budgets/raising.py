"""What an answer does to a soft limit: it lifts it for its period, or the asking is over."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from agentcy_ray.budgets.amounts import Key
from agentcy_ray.budgets.records import SoftLimit

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

_RAISE = """
UPDATE budget_balances SET raised = true
WHERE org_id = $1 AND scope = $2 AND subject = $3 AND unit = $4 AND period = $5
"""
_NOT_RAISED = """
UPDATE budget_balances SET asks = asks + 1
WHERE org_id = $1 AND scope = $2 AND subject = $3 AND unit = $4 AND period = $5 AND asks = $6
"""


def asking(org_id: UUID, soft: SoftLimit) -> str:
    """The key of one asking: whoever meets the same soft limit meanwhile shares it."""
    return f"budget:{org_id.hex}:{':'.join(soft.key)}:{soft.asks}"


async def lift(connection: Connection, org_id: UUID, soft: SoftLimit) -> None:
    """Let a period go on to its hard limit; twice does no harm."""
    await lift_key(connection, org_id, soft.key)


async def lift_key(connection: Connection, org_id: UUID, key: Key) -> None:
    """``lift`` of the balance of a key."""
    await connection.execute(_RAISE, org_id, *key)


async def end_asking(connection: Connection, org_id: UUID, soft: SoftLimit) -> None:
    """The answer was no, or none came: whoever meets the limit later asks anew."""
    await connection.execute(_NOT_RAISED, org_id, *soft.key, soft.asks)
