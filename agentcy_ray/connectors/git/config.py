"""Config of the ``git`` connector: where the repository is and how to get in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr

from agentcy_ray.connectors.base import SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, fault, file_within
from agentcy_ray.stores.egress import DEFAULT_PORTS, Guard

# user@host:path, the short form of ssh URLs; a colon after a slash belongs to a path.
_SCP = re.compile(r"(?P<user>[^@/:\s]+)@(?P<host>[^/:\s]+):(?P<path>[^\s]+)")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class NoAuth(ConnectorConfig):
    """Public repositories, and folders."""

    kind: Literal["none"] = "none"


class HttpsToken(ConnectorConfig):
    """A token sent as the password of HTTP basic authentication."""

    kind: Literal["https_token"]
    token: SecretStr = Field(description="access token with read rights; write rights to push")
    username: str = Field(
        default="git", description="name beside the token; GitLab wants oauth2, GitHub any"
    )


class SshKey(ConnectorConfig):
    """A private key; the server's host key must be in the known_hosts of the service's user."""

    kind: Literal["ssh_key"]
    private_key: SecretStr = Field(description="private key, OpenSSH or PEM text")
    passphrase: SecretStr | None = Field(default=None, description="passphrase of the key")
    username: str = Field(default="git", description="login name when the URL has none")


Auth = Annotated[NoAuth | HttpsToken | SshKey, Field(discriminator="kind")]


class GitConfig(ConnectorConfig):
    """A repository and the part of it that is read."""

    url: str = Field(
        description="https, ssh or file URL, user@host:path, or a folder under SOURCE_FILE_ROOTS",
        min_length=1,
        max_length=2048,
    )
    auth: Auth = Field(default=NoAuth(), description="credentials, by kind")
    ref: str | None = Field(
        default=None,
        description="branch, tag or commit whose files are read; unset: the default branch",
        min_length=1,
        max_length=512,
    )
    shallow: bool = Field(
        default=False, description="fetch only the newest commit of each branch of a URL"
    )
    include_path_globs: tuple[str, ...] = Field(
        default=(),
        description="paths to read, for example docs/** or **/*.py; empty = all",
        max_length=100,
    )
    line_counts: bool = Field(
        default=False,
        description="count added and deleted lines of each change; reads every file of history",
    )


@dataclass(frozen=True)
class Local:
    """A repository on this machine, read in place."""

    path: Path


@dataclass(frozen=True)
class Remote:
    """A repository behind a URL, read through a mirror."""

    url: str


@dataclass(frozen=True)
class Place:
    """Where the server of a remote repository is."""

    scheme: str
    host: str
    port: int
    user: str
    """As the URL has it, percent-encoded; empty when it names none."""
    path: str
    short: bool
    """Whether the URL has the short form, whose path starts in the user's home folder."""

    def at_gate(self, port: int) -> str:
        """The URL of the same repository at a port of loopback."""
        user = f"{self.user}@" if self.user else ""
        if self.short:
            return f"[{user}127.0.0.1:{port}]:{self.path}"
        scheme = "ssh" if self.scheme == "ssh" else "http"
        return f"{scheme}://{user}127.0.0.1:{port}{self.path}"


def place_of(url: str) -> Place | None:
    """The server of a URL that ``locate`` accepted; None for a folder."""
    if match := _SCP.fullmatch(url):
        return Place("ssh", match["host"], 22, match["user"], match["path"], short=True)
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return None
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    user = parts.netloc.rpartition("@")[0]
    return Place(parts.scheme, parts.hostname, port, user, parts.path, short=False)


def locate(config: GitConfig, context: SessionContext) -> Local | Remote:
    """Where the repository lies; touches nothing but the file roots.

    Raises:
        SourceConfigError: kind ``config``; the URL is of no known form, carries credentials, does
            not go with ``auth``, or names a folder outside of the file roots.
        EgressDeniedError: the source may not connect to the URL's host.
    """
    url = config.url.strip()
    if match := _SCP.fullmatch(url):
        return _remote(config, url, "ssh", match["host"], context.guard)
    parts = urlsplit(url)
    if names_folder(url):
        return _local(config, unquote(parts.path) if "://" in url else url, context)
    if parts.scheme not in ("https", "http", "ssh") or not parts.hostname:
        raise fault(
            "config",
            f"{url!r} is no repository URL; use https://…, ssh://…, user@host:path or a folder",
            loc="url",
        )
    if parts.password is not None or (parts.username and parts.scheme != "ssh"):
        raise fault(
            "config", "credentials do not belong into the URL; give them as auth", loc="url"
        )
    return _remote(config, url, parts.scheme, parts.hostname, context.guard)


def names_folder(url: str) -> bool:
    """Whether a URL is a folder of this machine: a path, or a ``file`` URL."""
    url = url.strip()
    return url.startswith("file://") or not ("://" in url or _SCP.fullmatch(url))


def _local(config: GitConfig, path: str, context: SessionContext) -> Local:
    if config.auth.kind != "none":
        raise fault("config", "a folder needs no credentials; drop auth", loc="auth")
    return Local(file_within(path, context.file_roots, loc="url"))


def _remote(config: GitConfig, url: str, scheme: str, host: str, guard: Guard) -> Remote:
    kind = config.auth.kind
    if scheme == "ssh" and kind != "ssh_key":
        raise fault("config", "an ssh URL needs auth of kind ssh_key", loc="auth")
    if scheme != "ssh" and kind == "ssh_key":
        raise fault("config", "auth of kind ssh_key goes with an ssh URL", loc="auth")
    if scheme == "http" and kind == "https_token" and host not in _LOOPBACK:
        raise fault("config", "a token is sent over https only; change the URL", loc="url")
    try:
        place = place_of(url)
    except ValueError as error:
        raise fault("config", f"{url!r} is no URL: {error}", loc="url") from error
    if place is not None:
        guard.check(place.scheme, place.host, place.port)
    return Remote(url)
