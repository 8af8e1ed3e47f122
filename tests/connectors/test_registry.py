"""The registry: built-ins, aliases, the demo switch, and connectors of installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentcy_ray.connectors.csv import CsvConnector
from agentcy_ray.connectors.registry import Registry, builtin_registry
from agentcy_ray.core.errors import ConfigError, SourceConfigError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings

MODULE = """
from agentcy_ray.connectors.csv import CsvConnector
from dataclasses import replace

class Other(CsvConnector):
    spec = replace(CsvConnector.spec, name="other")

class Taken(CsvConnector):
    pass

instance = Other()
broken = object()
"""


def load(tmp_path: Path, **changes) -> Registry:
    return builtin_registry(Settings.load({}, agentcy_state_dir=tmp_path, **changes))


@pytest.fixture
def install(tmp_path: Path, monkeypatch):
    """Install a package that names a connector by entry point."""

    def install(target: str) -> None:
        site = tmp_path / "site"
        info = site / "acme_connectors-1.dist-info"
        info.mkdir(parents=True)
        (site / "acme_connectors.py").write_text(MODULE)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-connectors\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[agentcy_ray.connectors]\nacme = {target}\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, "acme_connectors", raising=False)

    return install


def test_the_built_in_connectors_are_there_by_name_and_alias(tmp_path):
    registry = load(tmp_path)
    names = [connector.spec.name for connector in registry.all()]
    assert names == sorted(names)
    assert {"csv", "demo", "files", "git", "json"} <= set(names)
    assert registry.get("os") is registry.get("files")


def test_the_demo_connector_needs_its_feature(tmp_path):
    registry = load(tmp_path, agentcy_features_demo=False)
    with pytest.raises(SourceConfigError):
        registry.get("demo")


def test_an_unknown_connector_is_answered_with_the_nearest_name(tmp_path):
    with pytest.raises(SourceConfigError, match="did you mean 'csv'") as caught:
        load(tmp_path).get("cvs")
    assert caught.value.details["kind"] == "config"
    with pytest.raises(SourceConfigError, match="csv, demo, files"):
        load(tmp_path).get("zzzzzz")


@pytest.mark.parametrize("target", ["acme_connectors:Other", "acme_connectors:instance"])
def test_a_connector_of_an_installed_package_joins_by_entry_point(tmp_path, install, target):
    install(target)
    assert load(tmp_path).get("other").spec.title == CsvConnector.spec.title


@pytest.mark.parametrize(
    "target", ["acme_connectors:broken", "acme_connectors:absent", "nowhere:X"]
)
def test_a_package_whose_connector_does_not_load_is_named(tmp_path, install, target):
    install(target)
    with pytest.raises(ConfigError, match="acme-connectors"):
        load(tmp_path)


def test_a_package_may_not_take_a_name_that_is_taken(tmp_path, install):
    install("acme_connectors:Taken")
    with pytest.raises(ConfigError, match="'csv'"):
        load(tmp_path)


def test_tools_of_a_source_are_known_without_its_secrets(tmp_path):
    tools = load(tmp_path).tools("demo", {"entities": 3})
    assert [tool.name for tool in tools] == ["lookup", "restart_service", "delete_record"]
    config = {"url": "https://x.io/a", "node_label": "R", "headers": {"A": "***"}}
    assert load(tmp_path).tools("csv", config) == []


def test_a_session_gets_a_folder_of_its_source_alone(tmp_path):
    registry, org_id, one, other = load(tmp_path), new_id(), new_id(), new_id()
    folders = {registry.context(org_id, source).work_dir for source in (one, other)}
    assert len(folders) == 2
    assert all(folder.is_relative_to(tmp_path / "sources") for folder in folders)
