"""Sealed secrets, and the keys that seal them."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.core.errors import ConfigError, SealBrokenError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.secrets import resolve_secrets
from agentcy_ray.stores.vault import Vault

KEY, OTHER = b"k" * 32, b"o" * 32


@given(st.binary(max_size=200), st.text(max_size=40))
def test_what_is_sealed_opens_for_the_same_owner(plain: bytes, owner: str) -> None:
    vault = Vault(KEY)
    assert vault.open(vault.seal(plain, owner), owner) == plain


def test_two_seals_of_one_secret_have_nothing_in_common() -> None:
    one, two = (Vault(KEY).seal(b"secret", "a") for _ in range(2))
    assert one.ciphertext != two.ciphertext
    assert one.wrapped_key != two.wrapped_key
    assert b"secret" not in one.ciphertext
    assert "ciphertext" not in repr(one)


def test_another_owner_cannot_open() -> None:
    vault = Vault(KEY)
    with pytest.raises(SealBrokenError, match="another owner"):
        vault.open(vault.seal(b"secret", "org:source:1"), "org:source:2")


@pytest.mark.parametrize("part", ["ciphertext", "nonce", "wrapped_key"])
def test_a_changed_bit_is_noticed(part: str) -> None:
    vault = Vault(KEY)
    sealed = vault.seal(b"secret", "a")
    value = getattr(sealed, part)
    broken = replace(sealed, **{part: bytes([value[0] ^ 1]) + value[1:]})
    with pytest.raises(SealBrokenError):
        vault.open(broken, "a")


def test_a_secret_of_the_previous_key_opens_and_moves_to_the_new_one() -> None:
    old = Vault(KEY).seal(b"secret", "a")
    both = Vault(OTHER, previous=KEY)
    assert both.open(old, "a") == b"secret"
    moved = both.rewrap(old)
    assert moved.ciphertext == old.ciphertext
    assert Vault(OTHER).open(moved, "a") == b"secret"
    assert both.rewrap(moved) is moved


def test_a_secret_of_an_unknown_key_names_what_to_set() -> None:
    sealed = Vault(KEY).seal(b"secret", "a")
    with pytest.raises(SealBrokenError, match="ENCRYPTION_KEY_PREVIOUS"):
        Vault(OTHER).open(sealed, "a")


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 16 bytes"):
        Vault(b"k" * 16)


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = Settings.load({}, agentcy_state_dir=tmp_path / "state")
    first = resolve_secrets(settings)
    assert resolve_secrets(settings) == first
    file = tmp_path / "state" / "secrets.json"
    assert first.admin_password_file == file
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(first.jwt_secret) >= 32
    assert len(first.encryption_key) == 32
    assert first.jwt_secret not in repr(first)


def test_given_secrets_win_over_made_ones(tmp_path: Path) -> None:
    environment = {
        "JWT_SECRET": "j" * 40,
        "ENCRYPTION_KEY": base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "ADMIN_PASSWORD": "pass",
    }
    found = resolve_secrets(Settings.load(environment, agentcy_state_dir=tmp_path))
    assert (found.jwt_secret, found.admin_password) == ("j" * 40, "pass")
    assert found.encryption_key == b"\xff" * 32
    assert found.admin_password_file is None
    assert not (tmp_path / "secrets.json").exists()


def test_starters_at_the_same_time_agree_on_the_secrets(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from agentcy_ray.core.settings import Settings\n"
        "from agentcy_ray.stores.secrets import resolve_secrets\n"
        "settings = Settings.load({}, agentcy_state_dir=Path(sys.argv[1]))\n"
        "print(resolve_secrets(settings).jwt_secret)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in running}
    assert len(answers) == 1
    assert all(process.returncode == 0 for process in running)


@pytest.mark.requirement("RUN-13")
def test_external_database_without_keys_is_refused_by_name(tmp_path: Path) -> None:
    external = Settings(agentcy_state_dir=tmp_path, database_url="postgresql://db.example/agentcy")
    with pytest.raises(ConfigError, match=r"(?s)JWT_SECRET.*ENCRYPTION_KEY"):
        resolve_secrets(external)
    with pytest.raises(ConfigError, match=r"(?s)JWT_SECRET.*ENCRYPTION_KEY"):
        Settings.load({"DATABASE_URL": "postgresql://db.example/agentcy"})


def test_malformed_key_and_damaged_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ENCRYPTION_KEY must be 32 bytes"):
        resolve_secrets(Settings.load({"ENCRYPTION_KEY": "short"}, agentcy_state_dir=tmp_path))
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        resolve_secrets(Settings.load({}, agentcy_state_dir=tmp_path))
