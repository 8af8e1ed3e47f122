"""One file as a source: named by path, URL or object key, brought within reach, and compared.

A file is read again only when it changed. Its fingerprint stands in the cursor: for a server file
what ``stat`` says, for a download its SHA-256.
"""

from __future__ import annotations

import asyncio
import hashlib
import stat
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pydantic import Field, SecretStr, model_validator

from agentcy_ray.connectors.base import SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, FaultKind, fault, file_within
from agentcy_ray.core.errors import NotFoundError, SourceConfigError
from agentcy_ray.stores.http import check_url, fetch

MAX_BYTES = 2 * 1024**3
"""Largest file that is downloaded from a URL or an object store."""


class FileConfig(ConnectorConfig):
    """Where the file is: exactly one of ``file_path``, ``url`` and ``object_key``."""

    file_path: str | None = Field(
        None, min_length=1, description="a file on the server, under SOURCE_FILE_ROOTS"
    )
    url: str | None = Field(None, min_length=1, description="an http or https URL")
    object_key: str | None = Field(
        None, min_length=1, description="a key among the organisation's files in the object store"
    )
    headers: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr],
        description="headers of the request to url, for example Authorization",
    )

    @model_validator(mode="after")
    def _one_place(self) -> FileConfig:
        given = [name for name in ("file_path", "url", "object_key") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of file_path, url and object_key"
                + (f", not {' and '.join(given)}" if given else "")
            )
        return self


@dataclass(frozen=True)
class SourceFile:
    """A readable file: where it lies now, what the source calls it, and its fingerprint."""

    path: Path
    name: str
    fingerprint: str


def check_place(config: FileConfig, context: SessionContext) -> None:
    """Refuse a place that can never be read, without reaching for it.

    Raises:
        SourceConfigError: kind ``config``.
        EgressDeniedError: a URL of a host that the source may not connect to.
    """
    if config.file_path:
        file_within(config.file_path, context.file_roots, loc="file_path")
    if config.url:
        context.guard.check_url(check_url(config.url))
    if config.object_key and context.objects is None:
        raise fault("config", "this server has no object store to read from", loc="object_key")


@asynccontextmanager
async def source_file(
    config: FileConfig, context: SessionContext
) -> AsyncGenerator[SourceFile, None]:
    """The file of a config; a download is deleted on leaving.

    Raises:
        SourceConfigError: it is absent, unreadable or elsewhere than allowed.
        EgressDeniedError: the URL, or a redirect of it, leads to where the source may not connect.
        TooLargeError: a download passes ``MAX_BYTES``.
        StorageFullError: no space is left for a download.
    """
    if config.file_path:
        path = file_within(config.file_path, context.file_roots, loc="file_path")
        yield await asyncio.to_thread(_server_file, path)
        return
    local = await _local_object(config, context)
    if local is not None:
        yield await asyncio.to_thread(_server_file, local)
        return
    part = context.work_dir / f"download-{uuid4().hex}.part"
    try:
        context.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield await _download(config, context, part)
    finally:
        part.unlink(missing_ok=True)


async def _local_object(config: FileConfig, context: SessionContext) -> Path | None:
    if not config.object_key:
        return None
    if context.objects is None:
        raise fault("config", "this server has no object store to read from", loc="object_key")
    return context.objects.local_path(config.object_key)


async def _download(config: FileConfig, context: SessionContext, part: Path) -> SourceFile:
    if config.url:
        headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        got = await fetch(
            config.url, part, guard=context.guard, headers=headers, max_bytes=MAX_BYTES
        )
        return SourceFile(part, check_url(config.url).path, f"sha256:{got.sha256}")
    key, digest, size = config.object_key or "", hashlib.sha256(), 0
    try:
        with part.open("wb") as file:
            async for piece in context.objects.stream(key):
                size += len(piece)
                if size > MAX_BYTES:
                    raise fault("config", f"{key} is larger than {MAX_BYTES} bytes; split it")
                digest.update(piece)
                await asyncio.to_thread(file.write, piece)
    except NotFoundError as error:
        raise fault("unreachable", f"no object has the key {key!r}", loc="object_key") from error
    return SourceFile(part, key, f"sha256:{digest.hexdigest()}")


def _server_file(path: Path) -> SourceFile:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise fault("config", f"{path} is not a file; name one", loc="file_path")
        with path.open("rb"):
            pass
    except OSError as error:
        raise os_fault(path, error) from error
    marks = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return SourceFile(path, path.name, "stat:" + ":".join(map(str, marks)))


_OS_FAULTS: Mapping[type[OSError], tuple[FaultKind, str]] = {
    FileNotFoundError: ("unreachable", "does not exist; check the path"),
    NotADirectoryError: ("unreachable", "does not exist; check the path"),
    PermissionError: ("scope", "may not be read by the server; change its mode or owner"),
}


def os_fault(path: Path, error: OSError) -> SourceConfigError:
    """A failed look at a server file, as the fault that the user can mend."""
    reason = (error.strerror or type(error).__name__).lower()
    kind, hint = _OS_FAULTS.get(type(error), ("unreachable", f"cannot be read: {reason}"))
    return fault(kind, f"{path} {hint}", loc="file_path")
