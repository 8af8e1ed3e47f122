"""Moving data keys to another key: killed, raced, and with everything going on."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from agentcy_ray.core.errors import SealBrokenError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.key_check import doctor_keys
from agentcy_ray.stores.keys.install import InstallKeys, InstallSource, key_id_of
from agentcy_ray.stores.keys.ring import KeyRing
from agentcy_ray.stores.keys.source import WrappedKey
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.rewrap import PLACES, Rewrapper, key_uses
from agentcy_ray.stores.vault import Vault
from tests.conftest import MakeDatabase
from tests.stores.sealed_rows import CALLS, CREDENTIALS, TOKENS, SealedRows

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


@pytest.fixture(scope="module")
async def url(make_database: MakeDatabase) -> str:
    made = await make_database()
    await migrate(made)
    return made


@pytest.fixture
async def rows(url: str) -> AsyncIterator[SealedRows]:
    """Seven secrets in each place of each of two organisations, under key A."""
    db = await open_database(url, pool_max=8)
    made = SealedRows(db)
    for _ in range(2):
        org_id = await made.org()
        for place in PLACES:
            await made.add(Vault(A), org_id, place, 7)
    yield made
    async with db.system() as connection:
        await connection.execute("DELETE FROM organizations WHERE id = ANY($1)", list(made.orgs))
    await db.close()


def rewrapper(rows: SealedRows, vault: Vault, **how: int) -> Rewrapper:
    return Rewrapper(rows.db, vault, settle_secs=0, **how)


@pytest.mark.requirement("CON-03")
async def test_everything_moves_and_the_former_key_may_go(rows: SealedRows) -> None:
    before = {place: await rows.stored(place) for place in PLACES}
    told: list[int] = []
    both = Vault(B, previous=A)
    done = await Rewrapper(rows.db, both, progress=told.append, settle_secs=0, batch=3).run()
    assert (done.moved, done.overtaken, done.broken) == (42, 0, {})
    assert told[-1] == 42
    assert all(earlier < later for earlier, later in pairwise(told))
    assert await rows.check(Vault(B)) == 42  # the former key is gone
    with pytest.raises(SealBrokenError):
        await rows.check(Vault(A))
    for place, sealed in before.items():
        for row_id, now in (await rows.stored(place)).items():
            assert now.ciphertext == sealed[row_id].ciphertext
            assert now.wrapped_key != sealed[row_id].wrapped_key
    uses = await key_uses(rows.db)
    assert [(use.key_id, use.count) for use in uses] == [(key_id_of(B), 14)] * 3
    assert (await rewrapper(rows, both).run()).moved == 0


VICTIM = """
import asyncio, sys
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.rewrap import Rewrapper
from agentcy_ray.stores.vault import Vault

def told(moved):
    print(moved, flush=True)
    if moved >= int(sys.argv[2]):
        sys.stdin.read()  # nobody writes: killed here

async def main():
    db = await open_database(sys.argv[1], pool_max=2)
    vault = Vault(b"b" * 32, previous=b"a" * 32)
    await Rewrapper(db, vault, progress=told, settle_secs=0, batch=2).run()

asyncio.run(main())
"""


@pytest.mark.requirement("CON-03")
async def test_killed_and_begun_again_it_ends_where_it_should(rows: SealedRows, url: str) -> None:
    both = Vault(B, previous=A)
    for kill_at in (2, 20):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", VICTIM, url, str(kill_at)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while int(await process.stdout.readline()) < kill_at:
                pass
        process.kill()
        await process.wait()
        assert await rows.key_ids() == {key_id_of(A), key_id_of(B)}
        assert await rows.check(both) == 42
    await rewrapper(rows, both).run()
    assert await rows.key_ids() == {key_id_of(B)}
    assert await rows.check(Vault(B)) == 42


class Fails(InstallSource):
    """The key goes away at the n-th wrapping."""

    def __init__(self, left: int) -> None:
        super().__init__(lambda: InstallKeys(B, A), fixed=True)
        self.left = left

    async def wrap(self, data_key: bytes) -> WrappedKey:
        self.left -= 1
        if self.left < 0:
            raise StoreUnavailableError("the key service is away")
        return await super().wrap(data_key)


async def test_stopped_by_its_key_service_it_loses_nothing(rows: SealedRows) -> None:
    moved = 0
    for left in (1, 2, 3, 6, 15):  # the first one asks for the current key's id
        with pytest.raises(StoreUnavailableError, match="away"):
            await rewrapper(rows, Vault(KeyRing(Fails(left))), batch=2).run()
        assert await rows.check(Vault(B, previous=A)) == 42
        stored = [sealed for place in PLACES for sealed in (await rows.stored(place)).values()]
        under = sum(sealed.key_id == key_id_of(B) for sealed in stored)
        assert under >= moved
        moved = under
    assert 0 < moved < 42
    await rewrapper(rows, Vault(B, previous=A)).run()
    assert await rows.check(Vault(B)) == 42


@pytest.mark.requirement("CON-03")
async def test_those_who_write_and_read_meanwhile_are_not_disturbed(
    rows: SealedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers seal with the key that they know, which for a while is the former one."""
    monkeypatch.setattr("agentcy_ray.stores.keys.install.FRESH_SECS", 0.2)
    now = InstallKeys(A)
    running = Vault(KeyRing(InstallSource(lambda: now)))  # keys in a file, as `up` has them
    [org_id, other] = rows.orgs
    stop, reads = asyncio.Event(), 0

    async def write() -> None:
        while not stop.is_set():
            for place in PLACES:
                await rows.add(running, org_id, place)
            async with rows.db.tenant(other) as connection:  # a call that ends, a source that goes
                gone = await connection.fetch(
                    "WITH one AS (SELECT id FROM tool_calls WHERE args_sealed IS NOT NULL LIMIT 1)"
                    " UPDATE tool_calls t SET args_sealed = NULL FROM one WHERE t.id = one.id"
                    " RETURNING t.id"
                )
            for row in gone:
                rows.secrets.pop((CALLS.table, row["id"]))

    async def read() -> None:
        nonlocal reads
        while not stop.is_set():
            for place in (CREDENTIALS, TOKENS):
                for row_id, sealed in (await rows.stored(place)).items():
                    await running.open(sealed, f"{place.table}/{row_id}")
                    reads += 1

    async with asyncio.TaskGroup() as group:
        for work in (write, read, read):
            group.create_task(work())
        try:
            now = InstallKeys(B, A)
            ring = KeyRing(InstallSource(lambda: now))
            done = await Rewrapper(rows.db, Vault(ring), batch=3, settle_secs=2.5).run()
        finally:
            stop.set()
    assert done.passes > 1
    assert done.moved > 42 - 14  # of which 14 may have ended before they were moved
    assert reads > 0
    assert await rows.key_ids() == {key_id_of(B)}
    assert await rows.check(Vault(B)) > 42 - 14


async def test_two_at_once_share_the_work(rows: SealedRows) -> None:
    ones = [rewrapper(rows, Vault(B, previous=A), batch=2).run() for _ in range(3)]
    done = await asyncio.gather(*ones)
    assert sum(each.moved for each in done) == 42
    assert await rows.check(Vault(B)) == 42


async def test_what_does_not_open_is_counted_and_holds_nobody_up(rows: SealedRows) -> None:
    [org_id, _] = rows.orgs
    await rows.add(Vault(C), org_id, CREDENTIALS, 2)
    async with rows.db.system() as connection:
        await connection.execute(
            "UPDATE pipeline_tokens SET secret_sealed = $1 WHERE id = "
            "(SELECT id FROM pipeline_tokens LIMIT 1)", secrets.token_bytes(80),
        )  # fmt: skip
        await connection.execute(
            "UPDATE tool_calls SET args_sealed = '\\x02ffff' WHERE id = "
            "(SELECT id FROM tool_calls WHERE args_sealed IS NOT NULL LIMIT 1)"
        )
    done = await rewrapper(rows, Vault(B, previous=A)).run()
    assert done.moved == 40
    assert done.broken == {CREDENTIALS.name: 2, TOKENS.name: 1, CALLS.name: 1}
    uses = {(use.place, use.key_id): use.count for use in await key_uses(rows.db)}
    assert uses[CREDENTIALS.name, key_id_of(C)] == 2
    assert (await rewrapper(rows, Vault(B, previous=C)).run()).moved == 2


async def test_every_sealed_column_of_the_schema_is_moved(rows: SealedRows) -> None:
    known = {(place.table, place.packed or "wrapped_key") for place in PLACES}
    async with rows.db.system() as connection:
        found = await connection.fetch(
            "SELECT relname AS name, attname AS column FROM pg_attribute a"
            " JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname = 'public' AND relkind IN ('r', 'p') AND NOT attisdropped"
            " AND atttypid = 'bytea'::regtype AND attname ~ 'seal|wrap|secret|cipher'"
        )
    sealed = {(row["name"], row["column"]) for row in found}
    assert sealed - {("credentials", "ciphertext")} == known


async def test_what_was_packed_before_opens_after_the_migration(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentcy_ray.stores import migrate as module

    url, shipped = await make_database(), module.shipped()
    monkeypatch.setattr(module, "shipped", lambda: [one for one in shipped if one.version < 24])
    await migrate(url)
    rows = SealedRows(await open_database(url, pool_max=2))
    org_id = await rows.org()
    for place in (TOKENS, CALLS):
        await rows.add(Vault(A), org_id, place)
        assert place.packed is not None
        async with rows.db.system() as connection:
            for row_id, sealed in (await rows.stored(place)).items():
                former = sealed.key_id.encode() + sealed.wrapped_key + sealed.nonce
                await connection.execute(
                    f"UPDATE {place.table} SET {place.packed} = $2 WHERE id = $1",
                    row_id, former + sealed.ciphertext,
                )  # fmt: skip
    monkeypatch.undo()
    await migrate(url)
    assert await rows.check(Vault(A)) == 2
    await rows.db.close()


@pytest.mark.parametrize(
    "given", [{}, {"KMS_KEY_URI": "vault://transit/a", "VAULT_ADDR": "http://x"}]
)
async def test_keys_that_are_not_those_of_the_stored_secrets_are_told_and_nothing_is_asked(
    rows: SealedRows, url: str, tmp_path: Path, given: dict[str, str]
) -> None:
    def settings(key: bytes, **more: str) -> Settings:
        keys = {"ENCRYPTION_KEY": b64encode(key).decode()}
        return Settings.load(keys | given | more, agentcy_state_dir=tmp_path)

    [check] = await doctor_keys(url, settings(A))
    assert (check.ok, check.found) == (True, "28")
    [check] = await doctor_keys(url, settings(B))
    assert not check.ok
    assert check.found.startswith(f"28 of 28 under key {key_id_of(A)}; at hand: ")
    assert key_id_of(B) in check.found
    previous = b64encode(A).decode()
    [check] = await doctor_keys(url, settings(B, ENCRYPTION_KEY_PREVIOUS=previous))
    assert check.ok
