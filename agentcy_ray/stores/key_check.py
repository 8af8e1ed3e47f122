"""Whether the keys at hand are those that stored secrets are under."""

from __future__ import annotations

import asyncio

import asyncpg

from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.keys.install import key_id_of
from agentcy_ray.stores.keys.opening import open_keys
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.rewrap import PLACES, key_uses
from agentcy_ray.stores.secrets import install_keys
from agentcy_ray.stores.versions import Check

_NAME, _NEEDED = "stored secrets", "a key at hand for each"
_LASTING = [place for place in PLACES if place.table != "tool_calls"]
"""Arguments of calls live minutes, in a table of millions of rows."""
CONNECT_SECS = 5.0


async def check_keys(db: Database, settings: Settings) -> Check:
    """Compare the key ids of all stored secrets with the keys of these settings; opens none.

    Raises:
        ConfigError: a key is malformed or missing.
        StoreUnavailableError: Postgres does not answer.
    """
    uses, own = await key_uses(db, _LASTING), _own_keys(settings)
    keys = open_keys(settings)
    try:
        locked = [
            use
            for use in uses
            if use.key_id is None
            or not keys.is_for(use.key_id)
            or (":" not in use.key_id and use.key_id not in own)
        ]
    finally:
        await keys.aclose()
    count, total = sum(use.count for use in locked), sum(use.count for use in uses)
    if not locked:
        return Check(_NAME, True, f"{total:,}", _NEEDED, advisory=True)
    services = [name for name in keys.names if ":" in name]
    lost = ", ".join(sorted({use.key_id or "none that can be read" for use in locked}))
    return Check(
        _NAME,
        False,
        f"{count:,} of {total:,} under key {lost}; at hand: {', '.join([*services, *own])}",
        _NEEDED,
        "set ENCRYPTION_KEY (or KMS_KEY_URI) to what it was, or the earlier one as …_PREVIOUS and"
        " run `agentcy keys rotate`; what stays locked has to be entered again",
        advisory=True,
    )


async def doctor_keys(url: str, settings: Settings) -> list[Check]:
    """``check_keys`` for a database that may not be there, or not be ours yet; then nothing."""
    if not url:
        return []
    try:
        async with asyncio.timeout(CONNECT_SECS):
            db = await open_database(url, pool_max=1)
    except (AgentcyError, TimeoutError):
        return []  # told by the check of Postgres
    try:
        return [await check_keys(db, settings)]
    except asyncpg.PostgresError:
        return []  # no schema of ours
    except AgentcyError as error:
        return [Check(_NAME, False, "no look", _NEEDED, error.message)]
    finally:
        await db.close()


def _own_keys(settings: Settings) -> list[str]:
    """Ids of the install's keys, the current one first."""
    found = install_keys(settings)
    return [key_id_of(key) for key in (found.key, found.previous) if key is not None]
