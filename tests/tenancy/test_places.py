"""What lies outside of Postgres is kept apart by its name: objects, channels, databases."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import ValidationError

import agentcy_ray
from agentcy_ray.connectors.objects import OrgObjects
from agentcy_ray.context.advanced.databases import Databases
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.ids import new_id
from agentcy_ray.ingest.continuous.file_drop import drop_folder
from agentcy_ray.ingest.continuous.records import FileDrop
from agentcy_ray.stores.objects import FolderObjects

pytestmark = pytest.mark.attack
OURS, THEIRS = new_id(), new_id()
HOSTILE = (
    "../{theirs}/secret.txt", "a/../../{theirs}/secret.txt", "./../{theirs}/secret.txt",
    "/files/{theirs}/secret.txt", "//{theirs}/secret.txt", "..", ".", "", "/", "../",
    "..\\{theirs}",
    "%2e%2e/{theirs}/secret.txt", "..%2f{theirs}%2fsecret.txt", "%252e%252e%252f{theirs}",
    "files/{theirs}/secret.txt", "{theirs}/secret.txt", "a\x00/../../{theirs}/secret.txt",
    "\u2025/{theirs}/secret.txt", "\uff0e\uff0e/{theirs}/secret.txt", "..;/{theirs}/secret.txt",
    "file:///{theirs}/secret.txt", "s3://bucket/files/{theirs}/secret.txt", "~/secret.txt",
    "{theirs}", "../{theirs}", "*/secret.txt", "../*", "a/./../../{theirs}/secret.txt",
)  # fmt: skip
"""Keys that would lead to the other organisation's file, were they taken at their word."""


@pytest.mark.parametrize("key", HOSTILE)
async def test_no_key_of_a_source_leads_to_another_orgs_objects(tmp_path: Path, key: str) -> None:
    store = FolderObjects(tmp_path)
    await store.put_new(f"files/{THEIRS.hex}/secret.txt", b"the secret of theirs")
    await store.put_new(f"files/{OURS.hex}/own.txt", b"ours")
    objects = OrgObjects(store, OURS)
    key = key.format(theirs=THEIRS.hex)
    inside = (tmp_path / "files" / OURS.hex).resolve()
    for read in (objects.get, lambda key: _all(objects.stream(key))):
        try:
            got = await read(key)
        except AgentcyError:
            continue
        assert b"secret" not in got
    try:
        listed = await objects.list(key)
    except AgentcyError:
        listed = []
    assert set(listed) <= {"own.txt"}
    try:
        path = objects.local_path(key)
    except AgentcyError:
        path = None
    assert path is None or path.resolve().is_relative_to(inside)
    try:
        drop = FileDrop(prefix=key, format="csv")
    except ValidationError:
        return
    folder = drop_folder(OURS, drop.prefix)
    assert folder.startswith(f"files/{OURS.hex}/")
    found = [info.key async for info in store.scan(folder)]
    assert not [one for one in found if THEIRS.hex in one]


async def _all(pieces) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_each_org_has_a_kyma_database_of_its_own() -> None:
    first = new_id()

    async def asked() -> UUID:
        return first

    databases = Databases("agentcy", asked)
    orgs = [first, *(new_id() for _ in range(50))]
    names = [await databases.of(org) for org in orgs]
    assert len(set(names)) == len(orgs)
    assert names[0] == "agentcy"
    assert all(name == f"agentcy_{org.hex}" for org, name in zip(orgs[1:], names[1:], strict=True))


SHARED = {
    "ch:session:revoked": "ids of sessions and keys; every process has to hear of each",
    "ch:runs:queued": "says that there is work, nothing of it",
}
"""Channels of all organisations, and what goes over them."""


def test_a_channel_is_named_by_its_org_or_its_run() -> None:
    found: set[str] = set()
    for path in Path(agentcy_ray.__file__).parent.rglob("*.py"):
        found |= set(re.findall(r"""["'](ch:[^"']+)["']""", path.read_text()))
    assert len(found) > 8
    for name in found - set(SHARED):
        assert re.search(r":\{[\w.]*(org|run)_id\.hex\}$", name), name
