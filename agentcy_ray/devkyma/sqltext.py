"""Quoting for SQL text that the engine writes itself."""

from __future__ import annotations


def quoted(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def named(name: str) -> str:
    """An identifier, kept as it is written."""
    return '"' + name.replace('"', '""') + '"'
