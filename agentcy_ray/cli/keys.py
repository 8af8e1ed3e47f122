"""``agentcy keys``: which key wraps the data keys of stored secrets, and moving them to another.

Works on the database itself, as `agentcy migrate` does, with the settings of the platform: so it
needs no administrator's login, and keys stay out of the API.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import asyncpg
import typer

from agentcy_ray.cli.output import JsonFlag, console, notes, print_json, print_rows
from agentcy_ray.cli.progress import bar
from agentcy_ray.core.errors import ConfigError, ConflictError, SealBrokenError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.rewrap import (
    LEARN_SECS,
    SETTLE_SECS,
    KeyUse,
    Rewrapped,
    Rewrapper,
    key_uses,
)
from agentcy_ray.stores.secrets import (
    forget_previous_key,
    keeps_own_key,
    keys_may_change,
    renew_install_key,
)
from agentcy_ray.stores.vault import Vault

app = typer.Typer(help="The key of stored secrets: status, rotate, forget.", no_args_is_help=True)


@app.command()
def status(json: JsonFlag = False) -> None:
    """Say how many secrets are under which key."""
    settings = Settings.load()
    _print_status(_with_vault(settings, lambda db, vault: _status(settings, db, vault)), json)


@app.command()
def rotate(
    new_key: Annotated[
        bool,
        typer.Option(
            "--new-key", help="First make a new key, where the key lies in the state folder."
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Move every stored secret to the current key, while the platform runs.

    The secrets themselves are not touched, only the keys that encrypt them are wrapped anew. May
    be stopped at any moment and run again.
    """
    settings = Settings.load()
    if new_key:
        key_id = renew_install_key(settings)
        if not json:
            notes().print(f"made key {key_id}; the former one still opens", markup=False)

    async def work(db: Database, vault: Vault) -> tuple[Rewrapped, dict[str, Any]]:
        before = await _status(settings, db, vault)
        with bar("re-wrapping", unit="secrets", total=before["other"], quiet=json) as progress:
            settle = LEARN_SECS if keys_may_change(settings) else SETTLE_SECS
            done = await Rewrapper(db, vault, progress=progress, settle_secs=settle).run()
        return done, await _status(settings, db, vault)

    done, found = _with_vault(settings, work)
    if not json:
        console().print(f"{done.moved:,} secrets moved to key {done.key_id}", markup=False)
    if broken := sum(done.broken.values()):
        raise SealBrokenError(
            f"{broken:,} secrets are under keys that are not at hand, or damaged; `agentcy keys "
            "status` names the keys: give the missing one as …_PREVIOUS and run this again, or "
            "enter those secrets anew",
            moved=done.moved,
            broken=dict(done.broken),
        )
    if json:
        print_json({"moved": done.moved, **found})
    elif not found["other"]:
        console().print(_next_step(found), markup=False)


@app.command()
def forget(json: JsonFlag = False) -> None:
    """Remove the former key from the state folder, once nothing is under it."""
    settings = Settings.load()
    found = _with_vault(settings, lambda db, vault: _status(settings, db, vault))
    if found["other"]:
        raise ConflictError(
            f"{found['other']:,} secrets are under another key than the current one; run `agentcy "
            "keys rotate` first",
            code="state_conflict",
        )
    removed = keeps_own_key(settings) and forget_previous_key(settings, found["key_id"])
    if json:
        print_json({"forgotten": removed, **found})
    else:
        text = "the former key is gone" if removed else "the state folder keeps no former key"
        console().print(text, markup=False)


async def _status(settings: Settings, db: Database, vault: Vault) -> dict[str, Any]:
    current = await vault.keys.current_id()
    uses = await key_uses(db)
    return {
        "source": vault.keys.current.name,
        "key_id": current,
        "made_here": keeps_own_key(settings),
        "secrets": [
            {
                "place": use.place,
                "key_id": use.key_id,
                "count": use.count,
                "current": current == use.key_id,
            }
            for use in uses
        ],
        "current": _count(uses, lambda use: use.key_id == current),
        "other": _count(uses, lambda use: use.key_id != current),
    }


def _count(uses: list[KeyUse], wanted: Callable[[KeyUse], bool]) -> int:
    return sum(use.count for use in uses if wanted(use))


def _print_status(found: dict[str, Any], json: bool) -> None:
    if json:
        print_json(found)
        return
    console().print(f"sealing with {found['source']}, key {found['key_id']}", markup=False)
    if found["secrets"]:
        print_rows(found["secrets"], ["place", "key_id", "count", "current"])
    if found["other"]:
        console().print(
            f"{found['other']:,} secrets are under another key; `agentcy keys rotate` moves them",
            markup=False,
        )


def _next_step(found: dict[str, Any]) -> str:
    if found["made_here"]:
        return "nothing is under a former key; `agentcy keys forget` removes it"
    return "nothing is under a former key; take it out of the settings (…_PREVIOUS)"


def _with_vault(settings: Settings, work: Callable[[Database, Vault], Awaitable[Any]]) -> Any:
    """Run ``work`` on the platform's database; an embedded one is started for it if need be."""

    async def run() -> Any:
        db = await open_database(
            await _database_url(settings),
            pool_max=4,
            statement_cache=settings.database_statement_cache,
        )
        try:
            vault = open_vault(settings)
            try:
                return await work(db, vault)
            except asyncpg.UndefinedTableError as error:
                raise ConfigError(
                    "the stores are not prepared; `agentcy up` does so, of a cluster `agentcy "
                    "migrate run`"
                ) from error
            finally:
                await vault.aclose()
        finally:
            await db.close()

    return asyncio.run(run())


async def _database_url(settings: Settings) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    from agentcy_ray.stores.embedded import ensure_embedded

    want = frozenset({"postgres"})
    return (await ensure_embedded(settings, want, until_exit_of=os.getpid())).database_url
