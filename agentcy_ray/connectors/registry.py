"""The connectors that this process knows: the built-in ones, and those of installed packages.

The registry is fixed at start. A third-party package adds a connector by an entry point of group
``agentcy_ray.connectors`` that names a ``Connector`` class or instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast
from uuid import UUID

from agentcy_ray.connectors.base import Connector, SessionContext
from agentcy_ray.connectors.config import fault, read_config
from agentcy_ray.connectors.objects import ObjectReads, OrgObjects
from agentcy_ray.connectors.roots import file_roots
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolSpec
from agentcy_ray.stores.egress import Egress, Resolver
from agentcy_ray.stores.egress_pins import Pins

ENTRY_POINT_GROUP = "agentcy_ray.connectors"

BUILT_INS: Mapping[str, str] = {
    "csv": "agentcy_ray.connectors.csv:CsvConnector",
    "files": "agentcy_ray.connectors.files:FilesConnector",
    "git": "agentcy_ray.connectors.git:GitConnector",
    "json": "agentcy_ray.connectors.json:JsonConnector",
}
INTERNAL: Mapping[str, str] = {
    "pipelines": "agentcy_ray.connectors.continuous:PipelinesConnector",
}
DEMO: Mapping[str, str] = {"demo": "agentcy_ray.connectors.demo:DemoConnector"}
ALIASES: Mapping[str, str] = {"os": "files"}


class Registry:
    """Connectors by name, and the surroundings that their sessions get."""

    def __init__(
        self,
        connectors: Iterable[Connector],
        settings: Settings,
        aliases: Mapping[str, str] = ALIASES,
        resolver: Resolver | None = None,
    ) -> None:
        self._connectors = {connector.spec.name: connector for connector in connectors}
        self._settings = settings
        self._aliases = aliases
        self._egress = Egress(settings, resolver)

    def get(self, name: str) -> Connector:
        """The connector called ``name``, or that ``name`` is an alias of.

        Raises:
            SourceConfigError: there is none; the message names the nearest one.
        """
        connector = self._connectors.get(self._aliases.get(name, name))
        if connector is None:
            known = [connector.spec.name for connector in self.all()]
            near = get_close_matches(name, [*known, *self._aliases], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise fault("config", f"no connector is called {name!r}; {hint}", loc="connector")
        return connector

    def all(self) -> list[Connector]:
        """Every connector that a source can be made of, by name."""
        found = (self._connectors[name] for name in sorted(self._connectors))
        return [connector for connector in found if not connector.spec.internal]

    def tools(self, name: str, config: Mapping[str, Any]) -> list[ToolSpec]:
        """Tools of a source as its config is shown, secrets masked; nothing is reached.

        Raises:
            SourceConfigError: no such connector, or the config is no longer valid for it.
        """
        connector = self.get(name)
        return connector.tools(read_config(connector.spec.config_model, config))

    def context(
        self,
        org_id: UUID,
        source_id: UUID,
        objects: ObjectReads | None = None,
        *,
        pins: Pins | None = None,
    ) -> SessionContext:
        """What a session of this source may use; its folder is made by whoever opens sessions.

        ``objects`` is the install's object store; the session sees the files of its organisation
        in it and nothing else. ``pins`` are the source's own: it connects nowhere else.
        """
        return SessionContext(
            source_id=source_id.hex,
            work_dir=self._settings.state_dir / "sources" / source_id.hex,
            file_roots=file_roots(self._settings),
            objects=None if objects is None else OrgObjects(objects, org_id),
            guard=self._egress.guard("tenant", pins),
        )


def builtin_registry(settings: Settings) -> Registry:
    """The registry of this install: built-ins, the demo connector when allowed, entry points.

    Raises:
        ConfigError: an installed package's connector cannot be loaded or takes a name twice.
    """
    targets = {**BUILT_INS, **INTERNAL, **(DEMO if settings.agentcy_features_demo else {})}
    connectors = [_load_builtin(target) for target in targets.values()]
    taken = {connector.spec.name for connector in connectors} | ALIASES.keys()
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        connector = _load_entry(entry)
        if connector.spec.name in taken:
            raise ConfigError(
                f"{_origin(entry)} brings a connector {connector.spec.name!r}, a name that is"
                " taken; rename it or uninstall the package"
            )
        taken.add(connector.spec.name)
        connectors.append(connector)
    return Registry(connectors, settings)


def _load_builtin(target: str) -> Connector:
    module, _, name = target.partition(":")
    return cast("Connector", getattr(import_module(module), name)())


def _load_entry(entry: EntryPoint) -> Connector:
    try:
        loaded = entry.load()
        connector = loaded() if isinstance(loaded, type) else loaded
        connector.spec.name  # noqa: B018 - a connector has a spec; what has none fails here
    except Exception as error:
        raise ConfigError(
            f"{_origin(entry)} cannot be loaded: {type(error).__name__}: {error};"
            " mend or uninstall that package"
        ) from error
    return cast("Connector", connector)


def _origin(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist else "an unknown package"
    return f"the connector entry point {entry.name!r} of {package}"
