"""Identifiers: UUIDv7 inside, ``<prefix>_`` + Crockford base32 outside.

Domain code, SQL and Ray carry plain ``UUID``; only JSON carries the prefixed text. The annotated
types below do the change at the border: a pydantic field of type ``SourceId`` is a ``UUID`` in
Python and ``"src_06F…"`` in JSON.

Entity ids are not random. They are hashes of the external key (org, realm, source, label,
external id), so both ends of an edge are known without a look-up and a second sync meets the same
node again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from agentcy_ray.core.errors import NotFoundError

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {c: i for i, c in enumerate(ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_TEXT_LENGTH = 26  # 128 bits in groups of 5, the first group holds 3
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
_SHIFTS = range(120, -1, -10)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, 12 bits of their fraction, 62 random bits.

    The fraction (§6.2, method 3) orders ids that one process makes within a millisecond.
    """
    millis, rest = divmod(time.time_ns(), 1_000_000)
    value = (millis << 80) | int.from_bytes(os.urandom(8), "big")
    value |= (0x7000 | (rest << 12) // 1_000_000) << 64
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)


def base32(value: int) -> str:
    """128 bits as 26 characters of Crockford base32, upper case."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])


@lru_cache(16_384)  # the ids of a run are written many times each
def encode(prefix: str, value: UUID) -> str:
    """The public text of an id, for example ``src_06FDW3…``."""
    return f"{prefix}_{base32(value.int)}"


def decode(prefix: str, text: str) -> UUID:
    """The id behind a public text, read without regard to case.

    Raises:
        NotFoundError: the text is malformed; a malformed id is answered like an absent one.
    """
    head, _, body = text.partition("_")
    try:
        if head.lower() != prefix or len(body) != _TEXT_LENGTH:
            raise ValueError(text)
        value = 0
        for char in body.upper():
            value = (value << 5) | _VALUES[char]
        return UUID(int=value)
    except (KeyError, ValueError):
        raise NotFoundError(
            f"{text!r} is not the id of a {prefix!r} object; list them to find the right one"
        ) from None


def _reader(prefix: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        return decode(prefix, value) if isinstance(value, str) and "-" not in value else value

    return read


def _border(prefix: str) -> tuple[BeforeValidator, PlainSerializer, WithJsonSchema]:
    return (
        BeforeValidator(_reader(prefix)),
        PlainSerializer(lambda value: encode(prefix, value), return_type=str, when_used="json"),
        WithJsonSchema({"type": "string", "pattern": f"^{prefix}_[0-9A-Za-z]{{26}}$"}),
    )


OrgId = Annotated[UUID, *_border("org")]
UserId = Annotated[UUID, *_border("usr")]
ApiKeyId = Annotated[UUID, *_border("key")]
InviteId = Annotated[UUID, *_border("inv")]
SessionId = Annotated[UUID, *_border("ses")]
SourceId = Annotated[UUID, *_border("src")]
SyncRunId = Annotated[UUID, *_border("syn")]
PackageId = Annotated[UUID, *_border("pkg")]
ConversationId = Annotated[UUID, *_border("cnv")]
MessageId = Annotated[UUID, *_border("msg")]
RunId = Annotated[UUID, *_border("run")]
ToolCallId = Annotated[UUID, *_border("tc")]
ApprovalId = Annotated[UUID, *_border("apr")]
AgentId = Annotated[UUID, *_border("agt")]
ArtifactId = Annotated[UUID, *_border("art")]
AuditId = Annotated[UUID, *_border("aud")]
JobId = Annotated[UUID, *_border("job")]
SpaceId = Annotated[UUID, *_border("spc")]
SwapId = Annotated[UUID, *_border("swp")]
BackfillId = Annotated[UUID, *_border("bkf")]
QueryId = Annotated[UUID, *_border("qr")]
PolicyId = Annotated[UUID, *_border("pol")]
ReplayId = Annotated[UUID, *_border("rpl")]
AccessRequestId = Annotated[UUID, *_border("acc")]
PipelineId = Annotated[UUID, *_border("pip")]
PipelineRunId = Annotated[UUID, *_border("prn")]
MigrationId = Annotated[UUID, *_border("mig")]
IngestTokenId = Annotated[UUID, *_border("itk")]


def _hash_id(prefix: str, parts: tuple[str, ...]) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return f"{prefix}_{base32(int.from_bytes(digest.digest(), 'big'))}"


def node_id(org: UUID, realm: str, source: UUID, label: str, external_id: str) -> str:
    """Id of a node: ``n_`` + base32 of BLAKE2b-128 over its length-prefixed external key."""
    return _hash_id("n", (org.hex, realm, source.hex, label, external_id))


def edge_id(src: str, edge_type: str, dst: str, source: UUID) -> str:
    """Id of an edge: ``e_`` + base32 of BLAKE2b-128 over (src, type, dst, source)."""
    return _hash_id("e", (src, edge_type, dst, source.hex))
