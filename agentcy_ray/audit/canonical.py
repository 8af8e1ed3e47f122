"""The bytes of an audit entry that are hashed: RFC 8785, at the price of one ``orjson`` call.

``orjson`` with sorted keys writes what RFC 8785 asks for, but for some numbers and for the order of
rare keys. An entry with one of those takes the exact way round; every other one, which is nearly
all, pays for a walk over its values. All of an entry but its ``seq`` is made into bytes before its
turn in the chain comes, so that the chain's lock is held for one SHA-256 an entry and no more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import rfc8785

from agentcy_ray.audit.entry import AuditEntry, AuditRecord

EXACT = 2**53
"""Integers beyond it are not the same number everywhere (RFC 7493 §2.2)."""
DEEPEST = 100
"""Levels of nesting that are kept."""
_EASY = frozenset({str, bool, type(None), orjson.Fragment})
_NUL = b"\\u0000"
# UTF-8 of U+E000 and above: by UTF-16 units, as RFC 8785 sorts, these lie elsewhere than by bytes.
_LATE = re.compile(rb"[\xee-\xf4]")


class Sealed(NamedTuple):
    """An entry that only waits for its place in the chain."""

    id: UUID
    head: bytes
    """Canonical bytes up to the value of ``seq``."""
    tail: bytes
    """Canonical bytes after it."""

    def at(self, seq: int) -> bytes:
        """RFC 8785 of the entry at place ``seq``."""
        return b"%b%d%b" % (self.head, seq, self.tail)


def seal(entry: AuditEntry) -> Sealed:
    """Make an entry ready for the chain; what Postgres or RFC 8785 cannot hold becomes text."""
    try:
        head = _head(entry, usual=True) if _holdable(entry) else _NUL
    except (TypeError, RecursionError):  # keys that are no text, lone surrogates, endless depth
        head = _NUL
    if _NUL in head:
        entry = plain(entry)
        head = _head(entry, usual=_holdable(entry))
    return Sealed(entry.id, head, _tail(entry))


def next_hash(prev_hash: bytes, canonical_entry: bytes) -> bytes:
    """The hash of an entry that follows the one whose hash is ``prev_hash``."""
    return sha256(prev_hash + canonical_entry).digest()


def chain_hash(entry: AuditEntry | AuditRecord, seq: int, prev_hash: bytes) -> bytes:
    """The hash of a stored ``entry`` at place ``seq`` after ``prev_hash``.

    Raises:
        ValueError: RFC 8785 has no form for it, so it never was an entry of ours.
    """
    head = _head(entry, usual=_holdable(entry))
    return next_hash(prev_hash, Sealed(entry.id, head, _tail(entry)).at(seq))


def canonical(value: Any) -> bytes:
    """RFC 8785 of a JSON value.

    Raises:
        ValueError, TypeError: it has no such form.
    """
    return _canonical(value, usual=_usual(value))


def quick(value: Any) -> bytes | None:
    """RFC 8785 of a JSON value where ``orjson`` writes it; None where the exact way is needed."""
    if not _usual(value):
        return None
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError):  # keys that are no text, lone surrogates
        return None
    return text if text.isascii() or not _LATE.search(text) else None


def plain(entry: AuditEntry) -> AuditEntry:
    """The entry with JSON fields that Postgres and RFC 8785 both take unchanged."""
    return replace(
        entry,
        action=_plain(entry.action),
        resource=_plain(entry.resource),
        policy_id=_plain(entry.policy_id),
        rule=_plain(entry.rule),
        reasons=tuple(_plain(reason) for reason in entry.reasons),
        input=_plain(entry.input),
        context=_plain(entry.context),
    )


def _canonical(value: Any, *, usual: bool) -> bytes:
    # Only ids as the driver has them are unknown to it.
    text = orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS)
    if usual and (text.isascii() or not _LATE.search(text)):
        return text
    return rfc8785.dumps(orjson.loads(text))


def _head(entry: AuditEntry | AuditRecord, *, usual: bool) -> bytes:
    # All keys that sort before "seq"; those after it are the tail's.
    fields = {
        "action": entry.action,
        "api_key_id": entry.api_key_id,
        "category": entry.category,
        "context": entry.context,
        "decision": entry.decision,
        "id": entry.id,
        "input": entry.input,
        "org_id": entry.org_id,
        "policy_id": entry.policy_id,
        "reasons": entry.reasons,
        "resource": entry.resource,
        "rule": entry.rule,
    }
    return _canonical(fields, usual=usual)[:-1] + b',"seq":'


def _tail(entry: AuditEntry | AuditRecord) -> bytes:
    ts = entry.ts if entry.ts.tzinfo is UTC else entry.ts.astimezone(UTC)
    # Six digits always, which orjson leaves out when all are zero.
    moment = ts if ts.microsecond else ts.isoformat(timespec="microseconds")
    return b"," + orjson.dumps({"ts": moment, "user_id": entry.user_id}, default=str)[1:]


def _usual(value: Any) -> bool:
    """Whether ``orjson`` prints every number below ``value`` as ECMAScript does."""
    kind = value.__class__
    if kind in _EASY:
        return True
    if kind is dict:
        for item in value.values():
            if item.__class__ not in _EASY and not _usual(item):  # most items: not worth a call
                return False
        return True
    if kind is int:
        return -EXACT < value < EXACT
    if kind is float:
        return 1e-4 <= abs(value) < 1e15 and value != math.trunc(value)
    if kind is list or kind is tuple:
        return all(_usual(item) for item in value)
    return False


def _holdable(entry: AuditEntry | AuditRecord) -> bool:
    """Whether the open-ended fields hold numbers that every reader reads as the same ones."""
    return _usual(entry.resource) and _usual(entry.context) and _usual(entry.input)


def _plain(value: Any, depth: int = 0) -> Any:
    """JSON within the common ground of ``jsonb`` and I-JSON (RFC 7493).

    Numbers beyond 2⁵³ become text, as RFC 8785 §6 advises; ``jsonb`` knows no NUL character.
    """
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < EXACT else str(value)
    if isinstance(value, float):
        if not math.isfinite(value) or abs(value) >= EXACT:
            return repr(value)
        return int(value) if value.is_integer() else value
    if isinstance(value, orjson.Fragment):
        return _plain(orjson.loads(value.contents), depth)
    if depth == DEEPEST:
        return "[nested too deeply to be kept]"
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in value]
    return _plain(str(value))
