"""Sources in Postgres: secrets are sealed, masked, kept, and bound to their place."""

from __future__ import annotations

import pytest

from agentcy_ray.connectors.source_records import NewSource, SourceChange
from agentcy_ray.core.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    SealBrokenError,
    SourceConfigError,
)
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Role

CANARY = "canary-4f1c0de5-token"
URL_CONFIG = {
    "url": "https://data.example/t.csv",
    "node_label": "Row",
    "headers": {"Authorization": CANARY, "X-Trace/1~": "canary-second-secret"},
}


def demo(name: str = "company", **fields) -> NewSource:
    return NewSource(name=name, connector="demo", **fields)


async def test_a_source_is_found_by_id_and_by_name(store, org):
    made = await store.create(org.owner, demo(config={"entities": 5}))
    assert made == await store.get(org.id, made.id) == await store.by_name(org.id, "company")
    assert (made.status, made.realm, made.config_version) == ("ready", "default", 1)
    assert made.created_by == org.owner.user_id
    assert made.model_dump(mode="json")["id"].startswith("src_")


async def test_sources_are_listed_newest_first_in_pages_and_by_realm(store, org):
    names = [f"s{i}" for i in range(5)]
    for name in names:
        await store.create(org.owner, demo(name, realm="crm" if name == "s1" else None))
    first = await store.list(org.id, limit=3)
    rest = await store.list(org.id, limit=3, before=first[-1].id)
    assert [source.name for source in (*first, *rest)] == names[::-1]
    assert [source.name for source in await store.list(org.id, realms=("crm",))] == ["s1"]
    assert await store.list(org.id, realms=()) == []


async def test_another_organisation_sees_nothing_of_a_source(store, org, make_org):
    made = await store.create(org.owner, demo())
    other = await make_org()
    assert await store.list(other.id) == []
    for act in (
        store.get(other.id, made.id),
        store.by_name(other.id, made.name),
        store.open_config(other.id, made.id),
        store.version(other.id, made.id),
        store.update(other.owner, made.id, SourceChange(name="mine")),
        store.delete(other.owner, made.id),
    ):
        with pytest.raises(NotFoundError):
            await act


@pytest.mark.requirement("CON-02")
async def test_a_secret_is_shown_masked_and_opens_only_for_a_session(store, org):
    made = await store.create(
        org.owner, NewSource(name="t", connector="csv", realm="data", config=URL_CONFIG)
    )
    assert made.config["headers"] == {"Authorization": "***", "X-Trace/1~": "***"}
    assert CANARY not in repr(made) + made.model_dump_json()
    source, connector, config = await store.open_config(org.id, made.id)
    assert source == made
    assert connector.spec.name == "csv"
    assert config.headers["Authorization"].get_secret_value() == CANARY
    assert config.headers["X-Trace/1~"].get_secret_value() == "canary-second-secret"
    assert CANARY not in repr(config) + str(config)


@pytest.mark.requirement("CON-02")
async def test_a_canary_secret_stands_in_no_table(store, org, db):
    await store.create(org.owner, NewSource(name="t", connector="csv", config=URL_CONFIG))
    async with db.system() as connection:
        tables = await connection.fetch(
            "SELECT table_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND column_name = 'org_id'"
        )
        for table in tables:
            rows = await connection.fetch(f'SELECT t::text FROM "{table[0]}" t')
            text = "".join(row[0] for row in rows)
            assert CANARY not in text
            assert CANARY.encode().hex() not in text


@pytest.mark.requirement("CON-02")
async def test_a_sealed_secret_opens_under_no_other_source_org_or_version(store, org, make_org, db):
    other = await make_org()
    first = await store.create(org.owner, NewSource(name="a", connector="csv", config=URL_CONFIG))
    second = await store.create(org.owner, NewSource(name="b", connector="csv", config=URL_CONFIG))
    foreign = await store.create(
        other.owner, NewSource(name="a", connector="csv", config=URL_CONFIG)
    )
    take = (
        "UPDATE credentials c SET (ciphertext, nonce, wrapped_key, key_id) ="
        " (SELECT ciphertext, nonce, wrapped_key, key_id FROM credentials WHERE source_id = $1)"
        " WHERE c.source_id = $2"
    )
    async with db.system() as connection:
        await connection.execute(take, first.id, second.id)
        await connection.execute(take, first.id, foreign.id)
        await connection.execute(
            "UPDATE credentials SET version = 2 WHERE source_id = $1", first.id
        )
        await connection.execute("UPDATE sources SET config_version = 2 WHERE id = $1", first.id)
    for org_id, source_id in ((org.id, second.id), (other.id, foreign.id), (org.id, first.id)):
        with pytest.raises(SealBrokenError) as caught:
            await store.open_config(org_id, source_id)
        assert CANARY not in str(caught.value)


async def test_sending_the_mask_back_keeps_the_stored_secret(store, org, db):
    made = await store.create(org.owner, NewSource(name="t", connector="csv", config=URL_CONFIG))
    config = {**made.config, "node_label": "Line"}
    config["headers"] = {"Authorization": "***"}
    changed = await store.update(org.owner, made.id, SourceChange(config=config))
    assert (changed.config_version, changed.config["node_label"]) == (2, "Line")
    _, _, opened = await store.open_config(org.id, made.id)
    assert {k: v.get_secret_value() for k, v in opened.headers.items()} == {"Authorization": CANARY}
    async with db.system() as connection:
        versions = await connection.fetch(
            "SELECT version FROM credentials WHERE source_id = $1", made.id
        )
    assert [row["version"] for row in versions] == [2]


async def test_a_new_secret_replaces_the_stored_one_and_a_left_out_one_is_gone(store, org):
    made = await store.create(org.owner, NewSource(name="t", connector="csv", config=URL_CONFIG))
    config = {**made.config, "headers": {"Authorization": "another-secret"}}
    await store.update(org.owner, made.id, SourceChange(config=config))
    _, _, opened = await store.open_config(org.id, made.id)
    assert opened.headers["Authorization"].get_secret_value() == "another-secret"
    config = {key: value for key, value in made.config.items() if key != "headers"}
    await store.update(org.owner, made.id, SourceChange(config=config))
    _, _, opened = await store.open_config(org.id, made.id)
    assert opened.headers == {}


async def test_the_mask_without_a_stored_secret_is_refused(store, org):
    config = {**URL_CONFIG, "headers": {"Authorization": "***"}}
    with pytest.raises(SourceConfigError) as caught:
        await store.create(org.owner, NewSource(name="t", connector="csv", config=config))
    assert caught.value.details["errors"][0]["loc"] == "headers.Authorization"


async def test_a_refused_config_quotes_no_secret_and_leaves_no_source(store, org):
    config = {**URL_CONFIG, "headers": {"A": CANARY}, "delimiter": CANARY, "hedaers": CANARY}
    with pytest.raises(SourceConfigError) as caught:
        await store.create(org.owner, NewSource(name="t", connector="csv", config=config))
    assert {error["loc"] for error in caught.value.details["errors"]} == {"delimiter", "hedaers"}
    assert "'headers'" in caught.value.message
    assert CANARY not in f"{caught.value!r} {caught.value.details}"
    assert await store.list(org.id) == []


async def test_a_change_of_config_or_realm_forgets_the_cursors(store, org, db):
    made = await store.create(org.owner, demo())
    package = new_id()

    async def leave_cursor() -> None:
        async with db.tenant(org.id) as connection:
            await connection.execute(
                "INSERT INTO packages (id, org_id, source_id, state, manifest, digest, counts)"
                " VALUES ($1, $2, $3, 'full', '{}', '', '{}') ON CONFLICT DO NOTHING",
                package, org.id, made.id,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO source_cursors (org_id, source_id, stream, cursor, package_id)"
                " VALUES ($1, $2, 'company', '{}', $3)",
                org.id, made.id, package,
            )  # fmt: skip

    async def cursors() -> int:
        async with db.tenant(org.id) as connection:
            return await connection.fetchval(
                "SELECT count(*) FROM source_cursors WHERE source_id = $1", made.id
            )

    await leave_cursor()
    same = await store.update(org.owner, made.id, SourceChange(name="renamed", enabled=False))
    assert (same.name, same.enabled, same.config_version, await cursors()) == (
        "renamed", False, 1, 1,
    )  # fmt: skip
    await store.update(org.owner, made.id, SourceChange(config={"entities": 9}))
    assert await cursors() == 0
    await leave_cursor()
    await store.update(org.owner, made.id, SourceChange(realm="crm"))
    assert await cursors() == 0


async def test_a_source_that_is_being_synced_keeps_its_config_and_stays(store, org, db):
    made = await store.create(org.owner, demo())
    async with db.system() as connection:
        await connection.execute("UPDATE sources SET status = 'running' WHERE id = $1", made.id)
    with pytest.raises(ConflictError) as caught:
        await store.update(org.owner, made.id, SourceChange(config={"entities": 9}))
    assert caught.value.code == "state_conflict"
    with pytest.raises(ConflictError) as caught:
        await store.delete(org.owner, made.id)
    assert caught.value.code == "sync_in_progress"
    assert (await store.update(org.owner, made.id, SourceChange(name="x"))).name == "x"


async def test_a_mended_config_clears_the_last_error(store, org, db):
    made = await store.create(org.owner, demo())
    async with db.system() as connection:
        await connection.execute(
            "UPDATE sources SET status = 'failed', last_error = $2 WHERE id = $1",
            made.id, {"code": "connector_error"},
        )  # fmt: skip
    assert (await store.get(org.id, made.id)).last_error == {"code": "connector_error"}
    mended = await store.update(org.owner, made.id, SourceChange(config={"entities": 9}))
    assert (mended.status, mended.last_error) == ("ready", None)


async def test_a_deleted_source_takes_its_secrets_along(store, org, db):
    made = await store.create(org.owner, NewSource(name="t", connector="csv", config=URL_CONFIG))
    await store.delete(org.owner, made.id)
    with pytest.raises(NotFoundError):
        await store.get(org.id, made.id)
    async with db.system() as connection:
        left = await connection.fetchval(
            "SELECT count(*) FROM credentials WHERE source_id = $1", made.id
        )
    assert left == 0


async def test_a_taken_name_and_an_unknown_realm_are_typed_errors(store, org):
    await store.create(org.owner, demo())
    with pytest.raises(ConflictError, match="company"):
        await store.create(org.owner, demo())
    with pytest.raises(InvalidError, match="nowhere") as caught:
        await store.create(org.owner, demo("other", realm="nowhere"))
    assert caught.value.details["errors"][0]["loc"] == "realm"
    other = await store.create(org.owner, demo("other"))
    with pytest.raises(ConflictError, match="company"):
        await store.update(org.owner, other.id, SourceChange(name="company"))
    with pytest.raises(InvalidError, match="nowhere"):
        await store.update(org.owner, other.id, SourceChange(realm="nowhere"))


async def test_roles_and_realms_bound_what_a_principal_may_do(store, org):
    made = await store.create(org.owner, demo())
    viewer = org.principal(role=Role.VIEWER)
    limited = org.principal(realms=("crm",))
    for act in (
        store.create(viewer, demo("v")),
        store.update(viewer, made.id, SourceChange(name="v")),
        store.delete(viewer, made.id),
    ):
        with pytest.raises(PermissionDeniedError):
            await act
    for act in (
        store.create(limited, demo("v", realm="data")),
        store.update(limited, made.id, SourceChange(name="v")),
        store.delete(limited, made.id),
    ):
        with pytest.raises(NotFoundError):
            await act
    assert (await store.create(limited, demo("v", realm="crm"))).realm == "crm"


@pytest.mark.requirement("CON-07")
async def test_a_checked_source_is_only_created_when_it_can_be_reached(store, org, files):
    config = {"file_path": str(files / "absent.csv"), "node_label": "Row"}
    with pytest.raises(SourceConfigError) as caught:
        await store.create(
            org.owner, NewSource(name="t", connector="csv", config=config), check=True
        )
    assert (caught.value.status, caught.value.details["kind"]) == (422, "unreachable")
    assert await store.list(org.id) == []
    (files / "absent.csv").write_text("a\n1\n")
    made = await store.create(
        org.owner, NewSource(name="t", connector="csv", config=config), check=True
    )
    assert made.status == "ready"


@pytest.mark.parametrize("schedule", ["manual", "17 3 * * *", "@hourly"])
def test_schedules_of_the_known_forms_are_accepted(schedule):
    assert demo(schedule=schedule).schedule == schedule


@pytest.mark.parametrize("schedule", ["", "often", "1 2 3", "@never"])
def test_other_schedules_are_refused(schedule):
    with pytest.raises(ValueError, match="manual"):
        demo(schedule=schedule)
