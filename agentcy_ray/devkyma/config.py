"""How an engine process is set up, and the tokens that it honours."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path


class Role(enum.IntEnum):
    """What a token may do; a higher role passes a lower check."""

    READ = 1
    WRITE = 2
    ADMIN = 3

    @property
    def shown(self) -> str:
        """The name as it stands in a refusal."""
        return self.name.capitalize()


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in milliseconds; the defaults are the contract's."""

    ingest_bytes: int = 64 * 1024 * 1024
    query_bytes: int = 16 * 1024 * 1024
    wall_clock_ms: int = 300_000
    memory_bytes: int = 4 * 1024**3
    new_columns: int = 32
    flight_message_bytes: int = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a bucket is reached, path-style. Without keys the machine's own role is asked."""

    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """One engine process.

    ``data`` is a folder or ``s3://bucket/prefix``; ``catalog`` is the local folder of the catalog,
    by default the data folder itself. No tokens means that every caller is an admin.
    ``flight_auth`` asks for a token on the Flight port too, which kyma does not.
    ``compact_at`` extents of one size, each below ``small_bytes``, are merged in the background.
    """

    data: str
    http_port: int = 0
    flight_port: int = 0
    tokens: dict[str, Role] = field(default_factory=dict[str, Role], repr=False)
    header_prefix: str = "kyma"
    test_switches: bool = False
    flight_auth: bool = False
    catalog: Path | None = None
    s3: S3Options = field(default_factory=S3Options)
    limits: Limits = field(default_factory=Limits)
    compact_at: int = 24
    small_bytes: int = 32 * 1024 * 1024

    @property
    def bucket(self) -> tuple[str, str] | None:
        """Bucket and prefix when the data lie on S3."""
        if not self.data.startswith("s3://"):
            return None
        bucket, _, prefix = self.data.removeprefix("s3://").partition("/")
        return bucket, prefix.strip("/")

    @property
    def catalog_folder(self) -> Path:
        """Where the catalog lies.

        Raises:
            ValueError: the data lie on S3 and no catalog folder was named.
        """
        if self.catalog is not None:
            return self.catalog
        if self.bucket is not None:
            raise ValueError("data on S3 need a local folder for the catalog: pass --catalog DIR")
        return Path(self.data)


def parse_tokens(text: str) -> dict[str, Role]:
    """Tokens as ``token:role``, separated by commas or line ends.

    Raises:
        ValueError: an entry is no ``token:role``, or the role is none of read, write, admin.
    """
    tokens: dict[str, Role] = {}
    for entry in text.replace("\n", ",").split(","):
        if not (entry := entry.strip()):
            continue
        token, _, role = entry.rpartition(":")
        if not token or role.upper() not in Role.__members__:
            raise ValueError("a token is written as token:role, with role read, write or admin")
        tokens[token] = Role[role.upper()]
    return tokens
