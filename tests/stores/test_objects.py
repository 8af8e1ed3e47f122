"""One suite for a folder and for a bucket, and what only one of them does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pytest_httpserver import HTTPServer

from agentcy_ray.core.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    StorageFullError,
    StoreUnavailableError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.objects import (
    ONE_REQUEST_BYTES,
    BucketObjects,
    FolderObjects,
    ObjectStore,
    open_objects,
)

LARGE = ONE_REQUEST_BYTES + 12_345


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def bucket_settings(endpoint: str, bucket: str, **more: str) -> Settings:
    environment = {
        "S3_BUCKET": bucket, "S3_ENDPOINT": endpoint, "S3_PATH_STYLE": "true",
        "S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "secret", "S3_PREFIX": "team/a", **more,
    }  # fmt: skip
    return Settings.load(environment)


@pytest.fixture(params=["folder", "bucket"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path, s3_endpoint: str) -> ObjectStore:
    if request.param == "folder":
        return open_objects(Settings.load({}, agentcy_state_dir=tmp_path))
    name = f"bucket-{secrets.token_hex(4)}"
    import boto3

    boto3.client(
        "s3", endpoint_url=s3_endpoint, region_name="us-east-1",
        aws_access_key_id="id", aws_secret_access_key="secret",
    ).create_bucket(Bucket=name)  # fmt: skip
    return open_objects(bucket_settings(s3_endpoint, name))


async def chunks(total: int, size: int = 1_000_000) -> AsyncIterator[bytes]:
    for start in range(0, total, size):
        yield b"z" * min(size, total - start)


@pytest.mark.requirement("OBJ-01")
@pytest.mark.requirement("OBJ-03")
class TestConformance:
    async def test_what_was_put_is_got(self, objects: ObjectStore) -> None:
        await objects.put_new("packages/a b/ü.parquet", b"bytes")
        assert await objects.get("packages/a b/ü.parquet") == b"bytes"
        assert await objects.get_range("packages/a b/ü.parquet", 1, 3) == b"yte"
        assert await objects.get_range("packages/a b/ü.parquet", 1, 0) == b""
        assert await objects.size("packages/a b/ü.parquet") == 5

    async def test_an_empty_object_is_an_object(self, objects: ObjectStore) -> None:
        await objects.put_new("empty", b"")
        assert await objects.get("empty") == b""
        assert [chunk async for chunk in objects.stream("empty")] in ([], [b""])

    async def test_a_key_is_written_once(self, objects: ObjectStore) -> None:
        await objects.put_new("once", b"first")
        with pytest.raises(ConflictError, match="once"):
            await objects.put_new("once", b"second")
        assert await objects.get("once") == b"first"

    async def test_of_many_writers_at_once_one_wins(self, objects: ObjectStore) -> None:
        results = await asyncio.gather(
            *(objects.put_new("race", b"%d" % number) for number in range(8)),
            return_exceptions=True,
        )
        winners = [number for number, result in enumerate(results) if result is None]
        assert len(winners) == 1
        assert all(isinstance(result, ConflictError) for result in results if result is not None)
        assert await objects.get("race") == b"%d" % winners[0]

    @pytest.mark.parametrize("size", [10, LARGE])
    async def test_files_and_chunks_of_any_size_go_in_and_come_out(
        self, objects: ObjectStore, tmp_path: Path, size: int
    ) -> None:
        file = tmp_path / "source"
        file.write_bytes(b"z" * size)
        await objects.put_new("from/file", file)
        await objects.put_new("from/chunks", chunks(size))
        for key in ("from/file", "from/chunks"):
            assert await objects.size(key) == size
            assert sum([len(chunk) async for chunk in objects.stream(key)]) == size
            with pytest.raises(ConflictError):
                await objects.put_new(key, chunks(size))

    async def test_listing_is_by_folder(self, objects: ObjectStore) -> None:
        for key in ("a/2", "a/1", "a/b/3", "ab/4"):
            await objects.put_new(key, b"x")
        await objects.put_new("large", chunks(LARGE))
        assert await objects.list("a") == ["a/1", "a/2", "a/b/3"]
        assert await objects.list() == ["a/1", "a/2", "a/b/3", "ab/4", "large"]
        assert await objects.list("none") == []
        assert {info.key: info.size async for info in objects.scan("a/b")} == {"a/b/3": 1}

    async def test_what_is_absent_is_not_found_and_deleted_twice(
        self, objects: ObjectStore
    ) -> None:
        await objects.put_new("gone", b"x")
        await objects.delete("gone")
        await objects.delete("gone")
        for read in (objects.get("gone"), objects.size("gone"), objects.get_range("gone", 0, 1)):
            with pytest.raises(NotFoundError):
                await read
        with pytest.raises(NotFoundError):
            await anext(aiter(objects.stream("gone")))

    @pytest.mark.parametrize("key", ["../x", "a/../../x", "a//b", "", "."])
    async def test_a_key_that_leads_elsewhere_is_refused(
        self, objects: ObjectStore, key: str
    ) -> None:
        with pytest.raises(BadRequestError):
            await objects.put_new(key, b"x")

    async def test_only_a_folder_has_files(self, objects: ObjectStore) -> None:
        await objects.put_new("x", b"1")
        path = objects.local_path("x")
        assert (path.read_bytes() if path else b"1") == b"1"
        assert (path is not None) == isinstance(objects, FolderObjects)


async def test_folder_refuses_paths_that_leave_it(tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "objects")
    for key in ("../x", "/etc/passwd", "a/./b", ""):
        with pytest.raises(BadRequestError):
            objects.local_path(key)


async def test_full_disk_is_said_and_leaves_what_was_there(small_disk: Path) -> None:
    objects = FolderObjects(small_disk / "objects")
    await objects.put_new("kept", b"k" * 1_000_000)
    with pytest.raises(StorageFullError, match="free some"):
        await objects.put_new("large", chunks(60_000_000))
    with pytest.raises(StorageFullError, match="free some"):
        await objects.put_new("small", b"x" * 60_000_000)
    assert await objects.list() == ["kept"]
    assert await objects.size("kept") == 1_000_000
    await objects.put_new("after", b"a" * 10_000_000)


async def test_upload_that_ends_part_way_leaves_nothing(objects: ObjectStore) -> None:
    async def broken() -> AsyncIterator[bytes]:
        async for chunk in chunks(LARGE):
            yield chunk
        raise StoreUnavailableError("the source went away")

    with pytest.raises(StoreUnavailableError):
        await objects.put_new("half", broken())
    assert await objects.list() == []
    staging = objects.local_path("folder")
    assert staging is None or not [path for path in staging.parent.rglob("*") if path.is_file()]


async def test_bucket_that_cannot_be_reached_is_unavailable() -> None:
    objects = BucketObjects(bucket_settings("http://127.0.0.1:1", "nowhere"))
    with pytest.raises(StoreUnavailableError, match="nowhere"):
        await objects.get("x")


@pytest.mark.requirement("OBJ-02")
async def test_without_keys_the_ambient_credentials_sign(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AMBIENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient-secret")
    httpserver.expect_request("/some-bucket/team/a/x").respond_with_data(b"seen")
    settings = bucket_settings(httpserver.url_for("/").rstrip("/"), "some-bucket")
    ambient = settings.model_copy(update={"s3_access_key_id": None, "s3_secret_access_key": None})
    assert await BucketObjects(ambient).get("x") == b"seen"
    request, _ = httpserver.log[0]
    assert "Credential=AMBIENT/" in request.headers["Authorization"]
