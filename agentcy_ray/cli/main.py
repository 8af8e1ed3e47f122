"""``agentcy``: the command line, a client of the API plus what starts and inspects a machine."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from typing import Any

import typer

from agentcy_ray.cli import (
    access,
    api_keys,
    approvals,
    audit,
    bench,
    budgets,
    chat,
    cluster,
    demo,
    doctor,
    embed,
    engine,
    explore,
    invites,
    keys,
    login,
    migrate,
    org,
    password,
    pipelines,
    policy,
    server,
    sources,
    tools,
    users,
)
from agentcy_ray.cli.output import FAILED, STOPPED, USAGE, exit_code, print_error
from agentcy_ray.core.errors import AgentcyError, BadRequestError, ConfigError

UsageError: Any = typer.BadParameter.__mro__[1]
"""Base of the parser's complaints. Newer typers carry a click of their own and export no name."""


def build() -> typer.Typer:
    """The command tree."""
    app = typer.Typer(
        name="agentcy",
        help="A governed agent platform over your company's knowledge, on Ray.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    server.register(app)
    app.command("login")(login.login)
    app.command("whoami")(login.whoami)
    app.command("password")(password.password)
    app.command("demo")(demo.demo)
    app.command("doctor")(doctor.doctor)
    app.add_typer(doctor.config, name="config")
    app.add_typer(cluster.app, name="cluster")
    app.add_typer(migrate.app, name="migrate")
    app.add_typer(keys.app, name="keys")
    app.add_typer(org.app, name="org")
    app.add_typer(users.app, name="users")
    app.add_typer(invites.app, name="invites")
    app.add_typer(api_keys.app, name="api-keys")
    app.add_typer(engine.app, name="engine")
    app.add_typer(embed.app, name="embed")
    app.add_typer(sources.app, name="sources")
    app.add_typer(pipelines.app, name="pipelines")
    app.command("ingest")(pipelines.ingest)
    explore.register(app)
    chat.register(app)
    app.add_typer(approvals.app, name="approvals")
    app.add_typer(access.app, name="access")
    app.add_typer(tools.app, name="tools")
    app.add_typer(policy.app, name="policy")
    app.add_typer(audit.app, name="audit")
    app.add_typer(budgets.app, name="budgets")
    app.command("bench")(bench.bench)
    return app


def main() -> None:
    """Run one command; every error ends as one message and a documented exit code."""
    as_json = "--json" in sys.argv
    app = build()
    try:
        code = app(prog_name="agentcy", standalone_mode=False)
        if code == STOPPED:
            raise KeyboardInterrupt  # typer has made a silent code of it
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except AgentcyError as error:
        print_error(error, as_json=as_json)
        sys.exit(exit_code(error))
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print_error(ConfigError("stopped", code="cancelled"), as_json=as_json)
        sys.exit(STOPPED)
    except BrokenPipeError:
        # Whoever read has enough (`| head`); the interpreter must not fail at the rest once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:  # noqa: BLE001 - the last resort of a command
        if isinstance(error, UsageError):
            if type(error).__name__ != "NoArgsIsHelpError":  # that one has printed the help
                print_error(_misuse(error, app), as_json=as_json)
            sys.exit(USAGE)
        print_error(_unexpected(error), as_json=as_json)
        sys.exit(FAILED)


def _misuse(complaint: Any, app: typer.Typer) -> AgentcyError:
    """What the parser did not understand, in one line, with the help to look at."""
    said = " ".join(complaint.format_message().split()).removesuffix(".")
    # Not every complaint says of which command it is; the line that was typed does.
    words, command = ["agentcy"], typer.main.get_command(app)
    for word in sys.argv[1:]:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        words.append(word)
    return BadRequestError(f"{said}; see `{' '.join(words)} --help`", code="usage")


def _unexpected(error: Exception) -> AgentcyError:
    """A fault of ours: a line for the person, the traceback into a file."""
    lines = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile("w", prefix="agentcy-", suffix=".log", delete=False) as report:
        report.write(lines)
    return AgentcyError(
        f"{type(error).__name__}: {error}; this is a fault of agentcy itself, please report it "
        f"with {report.name}"
    )
