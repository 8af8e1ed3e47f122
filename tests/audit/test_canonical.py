"""The quick way to RFC 8785 gives what the plain one gives."""

import math
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agentcy_ray.audit.canonical import canonical, chain_hash, next_hash, seal
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.ids import new_id

NUMBERS = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1e-7, 1e-5, 1e-4, 0.5, 1e15, 1e16, 1e21, 1e300, 12.0])
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from([
    "é",
    "\ue000",
    "\U0001f600",
    "\u007f",
    "\u2028",
    '"\\\b\f\n\r\t',
    "\x01",
])
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def entry(**fields: Any) -> AuditEntry:
    usual = {"category": "policy", "action": "source.create", "decision": "allow"}
    return AuditEntry(**{"org_id": new_id(), **usual, **fields})


def reference(of: AuditEntry, seq: int) -> bytes:
    """The entry by the book, as anybody would write it who checks our log."""
    fields = asdict(of)
    fields["ts"] = of.ts.astimezone(UTC).isoformat(timespec="microseconds")
    for name in ("id", "org_id", "user_id", "api_key_id"):
        fields[name] = None if fields[name] is None else str(fields[name])
    return rfc8785.dumps({**fields, "reasons": list(of.reasons), "seq": seq})


@given(JSON)
def test_any_json_value_has_its_rfc_8785_form(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(st.dictionaries(TEXTS, JSON, max_size=3), st.none() | TEXTS, st.integers(1, 2**40))
def test_a_sealed_entry_is_hashed_as_the_book_says(
    resource: dict[str, Any], rule: str | None, seq: int
) -> None:
    of = entry(resource=resource, rule=rule, user_id=new_id())
    sealed = seal(of)
    fields = orjson.loads(sealed.at(seq))
    assert fields.pop("seq") == seq
    stored = TypeAdapter(AuditEntry).validate_python(fields)
    assert sealed.at(seq) == reference(stored, seq)
    assert chain_hash(stored, seq, bytes(32)) == next_hash(bytes(32), sealed.at(seq))


@pytest.mark.parametrize(
    "ts",
    [
        datetime(2026, 4, 24, 12, 0, 0, 0, UTC),
        datetime(2026, 4, 24, 12, 0, 0, 1000, UTC),
        datetime(2026, 4, 24, 12, 0, 0, 7, timezone(timedelta(hours=2))),
    ],
)
def test_the_time_is_utc_with_six_digits(ts: datetime) -> None:
    of = entry(ts=ts)
    assert seal(of).at(3) == reference(of, 3)


def test_what_json_cannot_hold_becomes_text() -> None:
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    odd = {"a": math.nan, "b": 2**70, "c": "\x00", "d": {1: {2}}, "e": "\ud800", "f": deep}
    kept = orjson.loads(seal(entry(input=odd)).at(1))["input"]
    assert kept | {"f": None} == {
        "a": "nan", "b": str(2**70), "c": "\ufffd", "d": {"1": [2]}, "e": "?", "f": None,
    }  # fmt: skip
