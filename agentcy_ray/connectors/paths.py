"""Paths and globs: bytes as they are on disk or in a repository, and which of them are read."""

from __future__ import annotations

from collections.abc import Iterable

from wcmatch import glob

from agentcy_ray.connectors.records import clean_text

GLOB_FLAGS = (
    glob.GLOBSTAR | glob.DOTMATCH | glob.BRACE | glob.EXTGLOB | glob.MATCHBASE | glob.FORCEUNIX
)
"""``**`` crosses folders, names with a dot match, and a pattern without a slash matches names in
every folder."""


class PathFilter:
    """Whether a path matches one of some globs; no glob matches everything.

    Args:
        globs: patterns of wcmatch, relative to the root.
    """

    def __init__(self, globs: Iterable[str]) -> None:
        patterns = list(globs)
        self._matcher = glob.compile(patterns, flags=GLOB_FLAGS) if patterns else None

    def __call__(self, raw: bytes) -> bool:
        """Whether the path passes."""
        return self._matcher is None or self._matcher.match(decoded(raw))

    def __bool__(self) -> bool:
        """Whether there is any glob."""
        return self._matcher is not None


def decoded(raw: bytes) -> str:
    """UTF-8 with U+FFFD for what is not; never a surrogate, never a NUL."""
    return clean_text(raw.decode("utf-8", "replace"))


def key_of(raw: bytes) -> str:
    """An external id for a path or a name: its text, or ``hex:…`` when that would be lossy."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"hex:{raw.hex()}"


def raw_of(key: str) -> bytes:
    """The bytes behind a key of ``key_of``."""
    if key.startswith("hex:"):
        try:
            return bytes.fromhex(key[4:])
        except ValueError:
            return key.encode()  # a name that happens to begin like this
    return key.encode("utf-8", "surrogateescape")


def lossless(raw: bytes, field: str) -> dict[str, str]:
    """``{field: hexadecimal}`` when ``raw`` is not UTF-8, else nothing."""
    return {field: raw.hex()} if key_of(raw).startswith("hex:") else {}
