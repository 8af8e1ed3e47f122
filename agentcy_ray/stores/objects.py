"""Objects: packages, artifacts and exports in a local folder or behind an S3 API.

Objects are created once and never changed: what points at them lives in Postgres. A key is a
``/``-separated path; ``..`` and empty segments are refused, so no key leads out of the store.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, S3Store

from agentcy_ray.core.errors import (
    BadRequestError,
    ConfigError,
    ConflictError,
    NotFoundError,
    StorageFullError,
    StoreUnavailableError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.egress import proxy_of

Chunks = AsyncIterator[bytes]

ONE_REQUEST_BYTES = 16 * 1024 * 1024
"""Up to here an object is sent in one request, beyond it in parts, so memory stays bounded."""
CHUNK_BYTES = 4 * 1024 * 1024
STAGING = ".staging"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells: key, size in bytes, time of writing, and the version's tag."""

    key: str
    size: int
    modified: datetime
    etag: str


class ObjectStore(Protocol):
    """A folder or a bucket. Every method raises StoreUnavailableError when it does not answer."""

    async def put_new(self, key: str, data: bytes | Path | Chunks) -> None:
        """Create an object; it appears whole or not at all.

        Raises:
            ConflictError: the key exists already; it is unchanged.
            StorageFullError: no space is left.
            BadRequestError: the key is malformed.
        """
        ...

    async def get(self, key: str) -> bytes:
        """The whole object.

        Raises:
            NotFoundError: there is none.
        """
        ...

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes from byte ``start``.

        Raises:
            NotFoundError: there is no such object.
        """
        ...

    def stream(self, key: str) -> Chunks:
        """The object in chunks of some megabytes.

        Raises:
            NotFoundError: there is none; raised by the first step.
        """
        ...

    def scan(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects below a folder-like prefix, in no particular order."""
        ...

    async def list(self, prefix: str = "") -> builtins.list[str]:
        """Keys below a folder-like prefix, sorted."""
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; one that is absent is no error."""
        ...

    async def size(self, key: str) -> int:
        """Size in bytes.

        Raises:
            NotFoundError: there is no such object.
        """
        ...

    def local_path(self, key: str) -> Path | None:
        """The file behind the key, for memory-mapping; None when the store is no folder."""
        ...


def open_objects(settings: Settings) -> ObjectStore:
    """The store that the settings name: a bucket, or ``objects/`` in the state folder.

    Without S3 keys the ambient role is used: environment, container or instance credentials.

    Raises:
        ConfigError: the folder cannot be made, or the S3 settings do not fit together.
    """
    if settings.s3_bucket is None:
        return FolderObjects(settings.state_dir / "objects")
    return BucketObjects(settings)


class _Objects(ABC):
    """What both kinds share; ``obstore`` speaks to either."""

    def __init__(self, store: LocalStore | S3Store, place: str) -> None:
        self._store = store
        self._place = place

    async def put_new(self, key: str, data: bytes | Path | Chunks) -> None:
        """See ``ObjectStore``."""
        _check(key)
        try:
            if isinstance(data, Path) and (await asyncio.to_thread(data.stat)).st_size <= (
                ONE_REQUEST_BYTES
            ):
                data = await asyncio.to_thread(data.read_bytes)
            if isinstance(data, bytes):
                await obstore.put_async(self._store, key, data, mode="create")
            else:
                await self._put_large(key, data)
        except (BaseError, OSError, ValueError) as error:
            self._raise(error, key)

    async def get(self, key: str) -> bytes:
        """See ``ObjectStore``."""
        try:
            result = await obstore.get_async(self._store, key)
            return bytes(await result.bytes_async())
        except (BaseError, OSError, ValueError) as error:
            self._raise(error, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """See ``ObjectStore``."""
        if length == 0:
            return b""
        try:
            return bytes(
                await obstore.get_range_async(self._store, key, start=start, length=length)
            )
        except (BaseError, OSError, ValueError) as error:
            self._raise(error, key)

    async def stream(self, key: str) -> Chunks:
        """See ``ObjectStore``."""
        try:
            result = await obstore.get_async(self._store, key)
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)
        except (BaseError, OSError, ValueError) as error:
            self._raise(error, key)

    async def scan(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """See ``ObjectStore``."""
        try:
            async for batch in obstore.list(self._store, prefix or None):
                for row in batch:
                    if not row["path"].startswith(f"{STAGING}/"):
                        moment = row["last_modified"]
                        etag = row["e_tag"] or f"{row['size']}-{moment.timestamp():.6f}"
                        yield ObjectInfo(row["path"], row["size"], moment, etag)
        except (BaseError, OSError, ValueError) as error:
            self._raise(error, prefix)

    async def list(self, prefix: str = "") -> builtins.list[str]:
        """See ``ObjectStore``."""
        return sorted([info.key async for info in self.scan(prefix)])

    async def delete(self, key: str) -> None:
        """See ``ObjectStore``."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError, ValueError) as error:
            self._raise(error, key)

    async def size(self, key: str) -> int:
        """See ``ObjectStore``."""
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except (BaseError, OSError, ValueError) as error:
            self._raise(error, key)

    @abstractmethod
    async def _put_large(self, key: str, data: Path | Chunks) -> None:
        """Store what comes in parts.

        Raises:
            AlreadyExistsError, BaseError, OSError: as the store has them; ``put_new`` types them.
        """

    def _raise(self, error: Exception, key: str) -> NoReturn:
        text = str(error).split("\n", 1)[0]
        if isinstance(error, AlreadyExistsError):
            raise ConflictError(f"object {key!r} exists already", key=key) from error
        if isinstance(error, FileNotFoundError):
            raise NotFoundError(f"no object {key!r}", key=key) from error
        if "No space left" in str(error) or "os error 28" in str(error):
            raise StorageFullError(
                f"no space is left in {self._place}; free some, then try again"
            ) from error
        if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            raise ConfigError(
                f"access to {self._place} is refused: {text}; check its permissions, or "
                "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY"
            ) from error
        if isinstance(error, ValueError) or "InvalidPath" in str(error):
            raise BadRequestError(f"{key!r} is no object key: {text}", key=key) from error
        raise StoreUnavailableError(f"{self._place} does not answer: {text}") from error


class FolderObjects(_Objects):
    """Objects as files below one folder."""

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"cannot keep objects in {root}: {error.strerror}; set AGENTCY_STATE_DIR to a "
                "folder of your own, or S3_BUCKET"
            ) from error
        self._root = root.resolve()
        super().__init__(LocalStore(prefix=self._root), str(root))

    async def put_new(self, key: str, data: bytes | Path | Chunks) -> None:
        """As ``ObjectStore``; on disk for good when it returns."""
        await super().put_new(key, data)
        await asyncio.to_thread(_sync, self._root / key, self._root)

    def local_path(self, key: str) -> Path | None:
        """The file.

        Raises:
            BadRequestError: the key leads out of the store.
        """
        _check(key)
        return self._root / key

    async def _put_large(self, key: str, data: Path | Chunks) -> None:
        """Write aside in parts, then link to the key, which fails when the key exists."""
        staged = f"{STAGING}/{secrets.token_hex(16)}"
        try:
            await obstore.put_async(self._store, staged, data, chunk_size=CHUNK_BYTES)
            await obstore.rename_async(self._store, staged, key, overwrite=False)
        except BaseException:
            for remains in (self._root / STAGING).glob(f"{Path(staged).name}*"):
                remains.unlink()
            raise


class BucketObjects(_Objects):
    """Objects in a bucket of any S3-compatible service."""

    def __init__(self, settings: Settings) -> None:
        options: dict[str, Any] = {
            "region": settings.s3_region,
            "virtual_hosted_style_request": not settings.s3_path_style,
        }
        client: dict[str, Any] = {}
        if settings.s3_endpoint is not None:
            options["endpoint"] = settings.s3_endpoint
            client["allow_http"] = settings.s3_endpoint.startswith("http://")
        proxy = proxy_of(settings, settings.s3_endpoint or "https://s3.amazonaws.com")
        if proxy is not None:
            client["proxy_url"] = proxy
        if client:
            options["client_options"] = client
        for name in ("access_key_id", "secret_access_key"):
            secret = getattr(settings, f"s3_{name}")
            if secret is not None:
                options[name] = secret.get_secret_value()
        try:
            store = S3Store(
                settings.s3_bucket,
                prefix=settings.s3_prefix or None,
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
                **options,
            )
        except (BaseError, ValueError) as error:
            raise ConfigError(f"the S3 settings do not fit together: {error}") from error
        super().__init__(store, f"bucket {settings.s3_bucket}")

    def local_path(self, key: str) -> Path | None:
        """None: a bucket has no files."""
        return None

    async def _put_large(self, key: str, data: Path | Chunks) -> None:
        """In parts. S3 has no create-only upload in parts, so look first; a part-way end leaves
        nothing visible, and two writers of one key write the same bytes: keys are derived."""
        try:
            await obstore.head_async(self._store, key)
        except FileNotFoundError:
            await obstore.put_async(self._store, key, data, chunk_size=8 * 1024 * 1024)
        else:
            raise AlreadyExistsError(f"object {key!r} exists already")


def _check(key: str) -> None:
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise BadRequestError(f"{key!r} is no object key: an empty or dotted segment", key=key)


def _sync(file: Path, root: Path) -> None:
    """Flush a new file and the folders that lead to it to the disk."""
    for place in (file, *file.parents):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if place == root:
            return
