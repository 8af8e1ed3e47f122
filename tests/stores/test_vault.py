"""Sealed secrets, and the keys that seal them."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.core.errors import ConfigError, ConflictError, SealBrokenError
from agentcy_ray.core.settings import Settings, child_environment
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.secrets import (
    forget_previous_key,
    install_keys,
    renew_install_key,
    resolve_secrets,
)
from agentcy_ray.stores.vault import Sealed, Vault

KEY, OTHER = b"k" * 32, b"o" * 32


@given(st.binary(max_size=200), st.text(max_size=40))
def test_what_is_sealed_opens_for_the_same_owner(plain: bytes, owner: str) -> None:
    async def there_and_back() -> bytes:
        vault = Vault(KEY)
        sealed = await vault.seal(plain, owner)
        return await vault.open(Sealed.unpack(sealed.pack()), owner)

    assert asyncio.run(there_and_back()) == plain


async def test_two_seals_of_one_secret_have_nothing_in_common() -> None:
    one, two = [await Vault(KEY).seal(b"secret", "a") for _ in range(2)]
    assert one.ciphertext != two.ciphertext
    assert one.wrapped_key != two.wrapped_key
    assert b"secret" not in one.ciphertext
    assert "ciphertext" not in repr(one)


async def test_a_secret_of_the_previous_key_opens_and_moves_to_the_new_one() -> None:
    old = await Vault(KEY).seal(b"secret", "a")
    both = Vault(OTHER, previous=KEY)
    assert await both.open(old, "a") == b"secret"
    moved = await both.rewrap(old)
    assert moved.ciphertext == old.ciphertext
    assert await Vault(OTHER).open(moved, "a") == b"secret"


async def test_a_secret_of_an_unknown_key_names_what_to_set() -> None:
    sealed = await Vault(KEY).seal(b"secret", "a")
    with pytest.raises(SealBrokenError, match="ENCRYPTION_KEY_PREVIOUS"):
        await Vault(OTHER).open(sealed, "a")
    elsewhere = replace(sealed, key_id="aws-kms://somebody")
    with pytest.raises(SealBrokenError, match="KMS_KEY_URI_PREVIOUS"):
        await Vault(OTHER).open(elsewhere, "a")


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
    keys = install_keys(settings)
    assert keys == install_keys(settings)
    assert len(keys.key or b"") == 32
    assert str(keys.key) not in repr(keys)
    assert first.jwt_secret not in repr(first)


def test_given_secrets_win_over_made_ones(tmp_path: Path) -> None:
    environment = {
        "JWT_SECRET": "j" * 40,
        "ENCRYPTION_KEY": base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "ADMIN_PASSWORD": "pass",
    }
    settings = Settings.load(environment, agentcy_state_dir=tmp_path)
    found = resolve_secrets(settings)
    assert (found.jwt_secret, found.admin_password) == ("j" * 40, "pass")
    assert install_keys(settings).key == b"\xff" * 32
    assert found.admin_password_file is None
    assert not (tmp_path / "secrets.json").exists()


def test_starters_at_the_same_time_agree_on_the_secrets(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from agentcy_ray.core.settings import Settings\n"
        "from agentcy_ray.stores.secrets import install_keys, resolve_secrets\n"
        "settings = Settings.load({}, agentcy_state_dir=Path(sys.argv[1]))\n"
        "print(resolve_secrets(settings).jwt_secret, install_keys(settings).key.hex())"
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
        install_keys(Settings.load({"ENCRYPTION_KEY": "short"}, agentcy_state_dir=tmp_path))
    # One that was cut to nothing too: new secrets in its place would lock the stored ones for good.
    for damaged in ("{", "", "[]", "null"):
        (tmp_path / "secrets.json").write_text(damaged)
        with pytest.raises(ConfigError, match="is damaged"):
            resolve_secrets(Settings.load({}, agentcy_state_dir=tmp_path))
        assert (tmp_path / "secrets.json").read_text() == damaged


async def test_a_new_key_in_the_state_folder_reaches_a_process_that_runs(tmp_path: Path) -> None:
    settings = Settings.load({}, agentcy_state_dir=tmp_path)
    running = open_vault(settings)
    old = await running.seal(b"old", "a")
    renew_install_key(settings)
    with pytest.raises(ConflictError, match="keys forget"):
        renew_install_key(settings)
    new = await open_vault(settings).seal(b"new", "a")
    assert new.key_id != old.key_id
    assert await running.open(new, "a") == b"new"
    assert await running.open(old, "a") == b"old"
    assert (await running.rewrap(old)).key_id == new.key_id
    assert forget_previous_key(settings, new.key_id)
    assert not forget_previous_key(settings, new.key_id)
    with pytest.raises(SealBrokenError, match=old.key_id):
        await open_vault(settings).open(old, "a")
    assert {path.name for path in tmp_path.iterdir()} == {"secrets.json", "secrets.lock"}


async def test_a_key_that_came_into_use_meanwhile_is_not_forgotten(tmp_path: Path) -> None:
    """Between the look at the rows and the removal others may have forgotten, and rotated on."""
    settings = Settings.load({}, agentcy_state_dir=tmp_path)
    looked_at = renew_install_key(settings)
    assert forget_previous_key(settings, looked_at)
    sealed = await open_vault(settings).seal(b"secret", "a")
    renew_install_key(settings)
    with pytest.raises(ConflictError, match="keys rotate"):
        forget_previous_key(settings, looked_at)
    assert await open_vault(settings).open(sealed, "a") == b"secret"


async def test_a_key_in_a_file_is_read_anew_and_stays_out_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, former = tmp_path / "key", tmp_path / "former"
    file.write_text(base64.b64encode(KEY).decode())
    former.write_text("")
    monkeypatch.setenv("ENCRYPTION_KEY_FILE", str(file))
    monkeypatch.setenv("ENCRYPTION_KEY_PREVIOUS_FILE", str(former))
    settings = Settings.load(agentcy_state_dir=tmp_path)
    running = open_vault(settings)
    await running.seal(b"old", "a")
    former.write_text(file.read_text())
    file.write_text(base64.b64encode(OTHER).decode())
    new = await Vault(OTHER).seal(b"new", "a")
    assert await running.open(new, "a") == b"new"
    inherited = child_environment(settings)
    assert inherited["ENCRYPTION_KEY_FILE"] == str(file)
    assert "ENCRYPTION_KEY" not in inherited


def test_keys_that_cannot_be_renewed_here_say_where_they_are(tmp_path: Path) -> None:
    given = {"ENCRYPTION_KEY": base64.b64encode(KEY).decode()}
    for environment in (given, {"KMS_KEY_URI": "vault://transit/a"}):
        with pytest.raises(ConfigError, match="keys rotate"):
            renew_install_key(Settings.load(environment, agentcy_state_dir=tmp_path))
    with pytest.raises(ConfigError, match=r"KMS_KEY_URI: .*aws-kms"):
        Settings.load({"KMS_KEY_URI": "azure://somewhere"})
