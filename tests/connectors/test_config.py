"""Configs are read strictly, and no path leads out of the folders that sources may name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from agentcy_ray.connectors.config import (
    ConnectorConfig,
    file_within,
    is_secret_schema,
    read_config,
)
from agentcy_ray.connectors.roots import allow_root, file_roots
from agentcy_ray.connectors.secrets import put_secrets, secret_values, take_secrets
from agentcy_ray.core.errors import SourceConfigError
from agentcy_ray.core.settings import Settings


class Auth(ConnectorConfig):
    token: SecretStr | None = None
    scopes: tuple[str, ...] = ()


class Config(ConnectorConfig):
    base_url: str
    auth: Auth = Field(default_factory=Auth)
    more: list[Auth] = Field(default_factory=list)
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    limit: int = Field(10, ge=1)


def faults(config: dict) -> dict[str, str]:
    with pytest.raises(SourceConfigError) as caught:
        read_config(Config, config)
    assert caught.value.details["kind"] == "config"
    assert "hunter2" not in f"{caught.value!r} {caught.value.details}"
    return {error["loc"]: error["message"] for error in caught.value.details["errors"]}


def test_every_fault_of_a_config_is_listed_with_its_place():
    found = faults({"limit": 0, "auth": {"tokn": "hunter2"}, "base_ulr": "hunter2"})
    assert set(found) == {"base_url", "limit", "auth.tokn", "base_ulr"}
    assert found["auth.tokn"] == "unknown field; did you mean 'token'?"
    assert found["base_ulr"] == "unknown field; did you mean 'base_url'?"


def test_a_field_that_resembles_none_is_answered_with_all_that_there_are():
    assert "auth, base_url, headers" in faults({"base_url": "x", "zzz": 1})["zzz"]


def test_a_secret_of_a_wrong_type_is_not_quoted():
    assert "auth.token" in faults({"base_url": "x", "auth": {"token": ["hunter2"]}})


def test_secrets_leave_a_config_and_come_back_at_any_depth():
    sent = {
        "base_url": "x",
        "auth": {"token": "one", "scopes": ["a"]},
        "more": [{"token": None}, {"token": "two"}],
        "headers": {"a/b~c": "three"},
    }
    masked, secrets = take_secrets(read_config(Config, sent))
    assert masked == {
        "base_url": "x",
        "auth": {"token": "***", "scopes": ["a"]},
        "more": [{"token": None}, {"token": "***"}],
        "headers": {"a/b~c": "***"},
    }
    assert secrets == {
        "/auth/token": "one", "/more/1/token": "two", "/headers/a~1b~0c": "three",
    }  # fmt: skip
    assert put_secrets(masked, secrets) == sent
    assert secret_values(read_config(Config, sent)) == ("three", "one", "two")


def test_a_schema_says_which_fields_are_secret():
    properties = Auth.model_json_schema()["properties"]
    assert is_secret_schema(properties["token"])
    assert not is_secret_schema(properties["scopes"])


def test_a_path_under_a_root_is_resolved(tmp_path: Path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.csv").touch()
    (root / "link").symlink_to(root / "sub")
    for path in (str(root / "sub/a.csv"), "sub/a.csv", "link/a.csv", "sub/../sub/a.csv"):
        assert file_within(path, (root,), loc="file_path") == root / "sub" / "a.csv"


def test_a_relative_path_is_taken_from_the_first_root_that_has_it(tmp_path: Path):
    roots = (tmp_path / "one", tmp_path / "two")
    for root in roots:
        root.mkdir()
    (roots[1] / "b.csv").touch()
    assert file_within("b.csv", roots, loc="file_path") == roots[1] / "b.csv"
    assert file_within("new.csv", roots, loc="file_path") == roots[0] / "new.csv"


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "sub/../../secret", "out", "loop",
                                  "out/secret", "a\x00b"])  # fmt: skip
def test_a_path_that_leaves_the_roots_is_refused(tmp_path: Path, path: str):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").touch()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(tmp_path / "loop2")
    (tmp_path / "loop2").symlink_to(root / "loop")
    if path == "loop":
        file_within(path, (root,), loc="file_path")  # stays inside, and cannot be opened
        return
    with pytest.raises(SourceConfigError) as caught:
        file_within(path, (root,), loc="file_path")
    assert caught.value.details["kind"] == "config"
    assert "\x00" in path or "SOURCE_FILE_ROOTS" in caught.value.message


def test_a_folder_beside_a_root_with_the_same_beginning_is_outside(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "database").mkdir()
    with pytest.raises(SourceConfigError):
        file_within(str(tmp_path / "database" / "x"), (tmp_path / "data",), loc="file_path")


def test_without_roots_no_file_is_read():
    with pytest.raises(SourceConfigError, match="SOURCE_FILE_ROOTS"):
        file_within("a.csv", (), loc="file_path")


def test_roots_are_the_setting_else_the_working_folder_of_an_embedded_install(
    tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    embedded = Settings.load({}, agentcy_state_dir=tmp_path / "s")
    assert file_roots(embedded) == (tmp_path,)
    listed = Settings.load({"SOURCE_FILE_ROOTS": "/srv/a,/srv/b"}, agentcy_state_dir=tmp_path)
    assert file_roots(listed) == (Path("/srv/a"), Path("/srv/b"))
    external = Settings.load(
        {"DATABASE_URL": "postgres://x", "JWT_SECRET": "s" * 32, "ENCRYPTION_KEY": "k"},
        agentcy_state_dir=tmp_path / "s",
    )
    assert file_roots(external) == ()


def test_a_granted_folder_joins_the_roots_once(tmp_path: Path):
    settings = Settings.load({"SOURCE_FILE_ROOTS": "/srv/a"}, agentcy_state_dir=tmp_path / "s")
    allow_root(settings, tmp_path)
    allow_root(settings, tmp_path)
    assert file_roots(settings) == (Path("/srv/a"), tmp_path)
