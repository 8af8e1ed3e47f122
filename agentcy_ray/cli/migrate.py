"""``agentcy migrate``: bring the stores of a cluster up to this version."""

from __future__ import annotations

import asyncio

import typer

from agentcy_ray.cli.output import JsonFlag, console, print_json
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.migrate import shipped
from agentcy_ray.stores.resolve import resolve_endpoints

app = typer.Typer(help="The stores' schema: run.", no_args_is_help=True)


@app.command()
def run(json: JsonFlag = False) -> None:
    """Apply missing migrations and first rows. `agentcy up` does so by itself.

    Any number of processes may run it at once; what is there already is left alone.
    """
    settings = Settings.load()
    if settings.database_url is None:
        raise ConfigError(
            "DATABASE_URL is unset; `agentcy up` starts and prepares stores of its own, set it "
            "to prepare the ones of a cluster"
        )

    async def work() -> None:
        from agentcy_ray.serve.wiring import prepare_stores

        await prepare_stores(settings, await resolve_endpoints(settings))

    asyncio.run(work())
    version = shipped()[-1].version
    if json:
        print_json({"version": version})
    else:
        console().print(f"the stores are at version {version}")


@app.callback()
def about() -> None:
    """Keeps `run` a command of its own."""
