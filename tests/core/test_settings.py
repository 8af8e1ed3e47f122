"""The one reader of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings, child_environment, explain, unclaimed

KEY = "a-signing-key-of-more-than-32-characters"


@pytest.mark.requirement("RUN-12")
def test_every_fault_is_listed_in_one_message() -> None:
    wrong = {"AGENTCY_PORT": "many", "HNSW_M": "1", "LLM_PROVIDER": "nobody"}
    with pytest.raises(ConfigError) as caught:
        Settings.load(wrong)
    assert all(name in caught.value.message for name in wrong)
    assert len(caught.value.details["faults"]) == 3


def test_an_external_database_needs_the_secrets_by_name() -> None:
    with pytest.raises(ConfigError, match=r"JWT_SECRET[\s\S]*ENCRYPTION_KEY"):
        Settings.load({"DATABASE_URL": "postgresql://there"})


def test_a_secret_is_read_from_the_file_that_its_variable_names(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    settings = Settings.load({"JWT_SECRET_FILE": str(tmp_path / "key")})
    assert settings.jwt_secret is not None
    assert settings.jwt_secret.get_secret_value() == KEY
    with pytest.raises(ConfigError, match="JWT_SECRET_FILE"):
        Settings.load({"JWT_SECRET_FILE": str(tmp_path / "absent")})


def test_secrets_are_in_no_repr_and_no_explanation() -> None:
    environ = {"JWT_SECRET": KEY, "LLM_API_KEY": "sk-canary", "HNSW_M": "24"}
    settings = Settings.load(environ)
    rows = {row["name"]: row for row in explain(settings, environ)}
    assert KEY not in repr(settings) + str(rows)
    assert "sk-canary" not in repr(settings) + str(rows)
    assert (rows["LLM_API_KEY"]["value"], rows["LLM_API_KEY"]["origin"]) == ("***", "environment")
    assert rows["HNSW_M"]["origin"] == "environment"
    assert rows["HNSW_EF_SEARCH"]["origin"] == "default"


def test_a_misspelt_variable_is_named_with_its_nearest_neighbour() -> None:
    assert unclaimed({"AGENTCY_PROT": "1", "PATH": "/bin"}) == [
        "AGENTCY_PROT is not a setting; did you mean AGENTCY_PORT?"
    ]


def test_processes_that_we_start_get_the_same_settings(tmp_path: Path) -> None:
    settings = Settings.load({}, agentcy_state_dir=tmp_path, agentcy_port=0, jwt_secret=KEY)
    child = Settings.load(child_environment(settings))
    assert (child.state_dir, child.agentcy_port) == (tmp_path, 0)
    assert child.jwt_secret is not None
    assert child.jwt_secret.get_secret_value() == KEY
