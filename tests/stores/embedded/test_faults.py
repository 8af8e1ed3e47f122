"""What a user reads when an embedded server cannot start, and what is mended by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from pathlib import Path

import asyncpg
import psutil
import pytest

from agentcy_ray.core.errors import ConfigError, StorageFullError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded, status, stop_embedded
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.embedded.server import executable, package_dir
from agentcy_ray.stores.embedded.supervisor import take_lock
from agentcy_ray.stores.redis import open_redis
from tests.stores.embedded.probing import Start, settings_in, supervisor_of, until


async def test_stale_pid_file_that_names_a_living_stranger_is_cleared(
    own: Settings, start: Start
) -> None:
    await start("postgres")
    await stop_embedded(own)
    stale = own.state_dir / "postgres" / "data" / "postmaster.pid"
    stranger = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    try:
        stale.write_text(f"{stranger.pid}\n/proc/self/cwd\n1700000000\n5432\n/tmp\n\n")
        shutil.chown(stale, stale.parent.stat().st_uid, stale.parent.stat().st_gid)
        found = await start("postgres")
        connection = await asyncpg.connect(found.database_url)
        await connection.close()
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_damaged_data_folder_is_reported_with_the_log_and_left_alone(
    own: Settings, start: Start
) -> None:
    await start("postgres")
    await stop_embedded(own)
    control = own.state_dir / "postgres" / "data" / "global" / "pg_control"
    control.write_bytes(b"\0" * control.stat().st_size)
    with pytest.raises(StoreUnavailableError, match=r"(?s)postgres.*FATAL") as caught:
        await start("postgres")
    assert str(Layout(own.state_dir).log("postgres")) in caught.value.message
    assert control.exists()


async def test_data_folder_without_a_database_is_refused_with_the_way_out(
    own: Settings, start: Start
) -> None:
    (own.state_dir / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="restore it from a backup, or move"):
        await start("postgres")


async def test_failed_server_is_tried_again_when_asked_again(own: Settings, start: Start) -> None:
    broken = own.state_dir / "postgres" / "data"
    broken.mkdir(parents=True)
    with pytest.raises(ConfigError):
        await start("postgres", "redis")
    broken.rmdir()
    found = await start("postgres", "redis")
    assert found.database_url


async def test_lost_record_costs_nothing(own: Settings, start: Start) -> None:
    before = await start("redis")
    await stop_embedded(own)
    Layout(own.state_dir).record.unlink()
    after = await start("redis")
    password = before.redis_url.split("@")[0]
    assert after.redis_url.split("@")[0] == password


async def test_unusable_state_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="AGENTCY_STATE_DIR"):
        await ensure_embedded(settings_in(tmp_path / "file" / "state"), frozenset({"redis"}))


async def test_shared_folder_is_neither_used_nor_changed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "something").write_text("")
    shared.chmod(0o1777)
    with pytest.raises(ConfigError, match="chmod 700"):
        await ensure_embedded(settings_in(shared), frozenset({"redis"}))
    assert shared.stat().st_mode & 0o7777 == 0o1777


async def test_fresh_volume_is_shut_for_others(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    Layout(volume).prepare()
    assert volume.stat().st_mode & 0o777 == 0o700


async def test_full_disk_later_on_does_not_stop_the_supervisor(small_disk: Path) -> None:
    settings = settings_in(small_disk / "state")
    want = frozenset({"redis"})
    try:
        before = await ensure_embedded(settings, want, until_exit_of=os.getpid())
        (redis,) = status(settings)
        assert redis.pid
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(b"x" * 65536)
        os.kill(redis.pid, signal.SIGKILL)
        await until(lambda: supervisor_of(settings).alive and not psutil.pid_exists(redis.pid))
        (small_disk / "filler").unlink()
        await until(lambda: _answers(before.redis_url))
    finally:
        await stop_embedded(settings)


async def _answers(url: str) -> bool:
    try:
        store = await open_redis(url, "test")
    except StoreUnavailableError:
        return False
    await store.aclose()
    return True


async def test_lock_is_held_by_one_and_free_again_after_it(tmp_path: Path) -> None:
    first = take_lock(Layout(tmp_path))
    assert first is not None
    assert take_lock(Layout(tmp_path)) is None
    os.close(first)
    again = take_lock(Layout(tmp_path))
    assert again is not None
    os.close(again)


def test_missing_binary_or_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="valkey-server is missing or not executable"):
        executable(tmp_path / "valkey-server")
    with pytest.raises(ConfigError, match="'no_such_package'"):
        package_dir("no_such_package")


async def test_full_disk_is_called_by_its_name(small_disk: Path) -> None:
    settings = settings_in(small_disk / "state")
    try:
        with pytest.raises(StorageFullError, match="No space left"):
            await ensure_embedded(settings, frozenset({"postgres"}), until_exit_of=os.getpid())
    finally:
        await stop_embedded(settings)
