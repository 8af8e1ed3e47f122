"""Ingest tokens: who may feed a pipeline. Only a hash is kept, and the sealed signing secret."""

from __future__ import annotations

import secrets
import string
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID

from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import NotFoundError, RateLimitedError, UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.identity.signatures import unsigned
from agentcy_ray.ingest.continuous.records import IngestToken, MadeToken, Pipeline
from agentcy_ray.ingest.continuous.store import COLUMNS
from agentcy_ray.stores.vault import Sealed, Vault

if TYPE_CHECKING:
    from agentcy_ray.stores.postgres import Database

MAX_TOKENS = 50
STALE_SECS = 4.0
"""Age of a remembered token; one that was revoked works no longer than this."""
REMEMBERED = 10_000
_CHARS = string.ascii_letters + string.digits

_LOCK = "SELECT 1 FROM context_pipelines WHERE id = $1 FOR UPDATE"
_COUNT = "SELECT count(*) FROM pipeline_tokens WHERE pipeline_id = $1 AND revoked_at IS NULL"
_INSERT = """
INSERT INTO pipeline_tokens (id, org_id, pipeline_id, name, token_hash, secret_sealed)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_LIST = """
SELECT id, name, secret_sealed IS NOT NULL AS signed, last_used_at, revoked_at, created_at
FROM pipeline_tokens WHERE pipeline_id = $1 AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3
"""
_REVOKE = """
UPDATE pipeline_tokens SET revoked_at = coalesce(revoked_at, clock_timestamp())
WHERE id = $1 AND pipeline_id = $2 RETURNING true
"""
# The look-up of a log-in: the hash decides whose request it is.
_FIND = f"""
SELECT {", ".join(f"p.{name.strip()}" for name in COLUMNS.split(","))},
  t.id AS token_id, t.secret_sealed
FROM pipeline_tokens t JOIN context_pipelines p ON p.id = t.pipeline_id
JOIN organizations o ON o.id = t.org_id AND o.deleted_at IS NULL
WHERE t.token_hash = $1 AND t.revoked_at IS NULL
"""
_USED = "UPDATE pipeline_tokens SET last_used_at = clock_timestamp() WHERE id = $1"


@dataclass(frozen=True)
class Ticket:
    """What a valid token opens."""

    token_id: UUID
    pipeline: Pipeline
    secret: bytes | None = field(repr=False)


class Tokens:
    """Makes, lists and checks the tokens of pipelines."""

    def __init__(self, db: Database, vault: Vault, clock: Clock | None = None) -> None:
        self._db = db
        self._vault = vault
        self._clock = clock or SystemClock()
        self._seen: OrderedDict[bytes, tuple[float, Ticket]] = OrderedDict()

    async def create(
        self, pipeline: Pipeline, name: str, public_url: str, *, with_secret: bool
    ) -> MadeToken:
        """A new token; its text, and that of its secret, are shown this once.

        Raises:
            RateLimitedError: ``quota_exceeded``.
            NotFoundError: the pipeline takes no posts.
        """
        if pipeline.kind not in ("webhook", "otlp"):
            raise NotFoundError(f"nothing is posted to a pipeline of kind {pipeline.kind}")
        text = "ctx_" + _random()
        secret = "whsec_" + _random() if with_secret else None
        token_id = new_id()
        sealed = None if secret is None else await self._seal(token_id, secret.encode())
        async with self._db.tenant(pipeline.org_id) as connection:
            await connection.execute(_LOCK, pipeline.id)  # makes the count exact
            if await connection.fetchval(_COUNT, pipeline.id) >= MAX_TOKENS:
                raise RateLimitedError(
                    f"a pipeline has {MAX_TOKENS} tokens at most; revoke one first",
                    code="quota_exceeded",
                )
            await connection.execute(
                _INSERT, token_id, pipeline.org_id, pipeline.id, name, _hash(text), sealed
            )
        url = f"{public_url}/api/v1/ingest/{text}"
        return MadeToken(id=token_id, token=text, secret=secret, url=url)

    async def list(
        self, pipeline: Pipeline, *, limit: int = 50, before: UUID | None = None
    ) -> list[IngestToken]:
        """Tokens of a pipeline, newest first, revoked ones included."""
        async with self._db.tenant(pipeline.org_id) as connection:
            rows = await connection.fetch(_LIST, pipeline.id, before, limit)
        return [IngestToken(**dict(row)) for row in rows]

    async def revoke(self, pipeline: Pipeline, token_id: UUID) -> None:
        """End a token, here at once and elsewhere within seconds.

        Raises:
            NotFoundError: the pipeline has no such token.
        """
        async with self._db.tenant(pipeline.org_id) as connection:
            done = await connection.fetchval(_REVOKE, token_id, pipeline.id)
        if not done:
            raise NotFoundError("no such token; GET …/tokens lists those of the pipeline")
        for digest, (_, ticket) in list(self._seen.items()):
            if ticket.token_id == token_id:
                del self._seen[digest]

    async def ticket(self, token: str) -> Ticket:
        """The pipeline behind a token.

        Raises:
            UnauthenticatedError: ``token_invalid``: it is none of ours, or was revoked.
        """
        digest, now = _hash(token), self._clock.now().timestamp()
        known = self._seen.get(digest)
        if known is not None and now < known[0]:
            return known[1]
        async with self._db.system() as connection:
            row = await connection.fetchrow(_FIND, digest)
            if row is None:
                raise UnauthenticatedError(
                    "the ingest token is not valid; make one for the pipeline",
                    code="token_invalid",
                )
            await connection.execute(_USED, row["token_id"])
        values = dict(row)
        token_id, packed = values.pop("token_id"), values.pop("secret_sealed")
        secret = None if packed is None else await self._open(token_id, packed)
        ticket = Ticket(token_id, Pipeline(**values), secret)
        self._seen[digest] = (now + STALE_SECS, ticket)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return ticket

    def secret_of(self, ticket: Ticket, signature: str | None) -> bytes | None:
        """The secret that a request must be signed with; None when it need not be signed.

        A signature that was sent unasked counts too, where the token has a secret.

        Raises:
            UnauthenticatedError: ``signature_invalid``: the pipeline asks for a signature, and none
                was sent, or the token has no secret.
        """
        if not ticket.pipeline.require_signature:
            return None if signature is None else ticket.secret
        if ticket.secret is None:
            raise unsigned("this token has no signing secret; make one with_secret")
        if signature is None:
            raise unsigned("sign the body and send X-Agentcy-Signature: sha256=<hex>")
        return ticket.secret

    async def _seal(self, token_id: UUID, secret: bytes) -> bytes:
        return (await self._vault.seal(secret, _owner(token_id))).pack()

    async def _open(self, token_id: UUID, packed: bytes) -> bytes:
        return await self._vault.open(Sealed.unpack(packed), _owner(token_id))


def _owner(token_id: UUID) -> str:
    return f"pipeline_tokens/{token_id.hex}"


def _random() -> str:
    return "".join(secrets.choice(_CHARS) for _ in range(32))


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()
