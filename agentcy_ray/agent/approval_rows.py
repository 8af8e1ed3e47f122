"""Statements over ``approvals`` and ``approval_votes``. Every move is a guarded UPDATE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentcy_ray.agent.approval_records import Approval

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

MAX_PENDING = 200
"""Of one organisation; what is asked beyond it is denied."""

COLUMNS = (
    "id, org_id, run_id, conversation_id, tool_call_id, connector, source_id, tool, args,"
    " args_sha256, effect, reasons, by_policy, quorum, second_person, status, requested_by,"
    " decided_by, decided_via, note, expires_at, decided_at, consumed_at, created_at"
)
_VOTES = """
coalesce((SELECT jsonb_agg(jsonb_build_object('by', v.user_id, 'approved', v.approved,
            'via', v.via, 'note', v.note, 'at', v.created_at) ORDER BY v.created_at, v.id)
          FROM approval_votes v WHERE v.approval_id = approvals.id), '[]') AS votes
"""
# Counts and inserts in one statement: the limit holds but for openings in the same instant.
OPEN = f"""
INSERT INTO approvals (id, org_id, run_id, conversation_id, tool_call_id, connector, source_id,
  tool, args, args_sha256, effect, reasons, by_policy, requested_by, expires_at, quorum,
  second_person)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
  clock_timestamp() + make_interval(secs => $15), $16, $17
WHERE (SELECT count(*) FROM approvals
       WHERE org_id = $2 AND status = 'pending' AND expires_at > clock_timestamp()) < {MAX_PENDING}
RETURNING {COLUMNS}
"""
GET = f"SELECT {COLUMNS}, {_VOTES} FROM approvals WHERE id = $1"
OF_CALL = f"SELECT {COLUMNS} FROM approvals WHERE tool_call_id = $1"
LOOK = f"""
SELECT {COLUMNS}, extract(epoch FROM expires_at - clock_timestamp())::float8 AS secs_left
FROM approvals WHERE id = $1
"""
LIST = f"""
SELECT {COLUMNS}, {_VOTES} FROM approvals
WHERE ($1::text IS NULL OR status = $1) AND ($2::uuid IS NULL OR requested_by = $2)
  AND ($3::uuid IS NULL OR conversation_id = $3) AND ($4::uuid IS NULL OR id < $4)
  AND ($1 IS DISTINCT FROM 'pending' OR expires_at > clock_timestamp())
ORDER BY id DESC LIMIT $5
"""
# One statement decides who may vote ($11: with the full grant, $12: the organisation wants a second
# person), that the approval is open and that it is this person's first vote. The count is kept in
# the row, so that of two votes at once the later one sees the earlier. A refusal decides at once.
VOTE = f"""
WITH moved AS (
  UPDATE approvals SET
    given = given + CASE WHEN $6 THEN 1 ELSE 0 END,
    status = CASE WHEN NOT $6 THEN 'denied' WHEN given + 1 >= quorum THEN 'approved'
                  ELSE status END,
    decided_by = CASE WHEN NOT $6 OR given + 1 >= quorum THEN $4 END,
    decided_via = CASE WHEN NOT $6 OR given + 1 >= quorum THEN $7 END,
    note = CASE WHEN NOT $6 OR given + 1 >= quorum THEN $8 END,
    decided_at = CASE WHEN NOT $6 OR given + 1 >= quorum THEN statement_timestamp() END
  WHERE id = $1 AND status = 'pending' AND expires_at > clock_timestamp()
    AND ($11 OR (requested_by = $4 AND NOT by_policy))
    AND NOT (requested_by = $4 AND (second_person OR $12))
    AND NOT EXISTS (SELECT 1 FROM approval_votes v
                    WHERE v.approval_id = approvals.id AND v.user_id = $4)
  RETURNING {COLUMNS}
),
vote AS (
  INSERT INTO approval_votes (id, org_id, approval_id, user_id, api_key_id, approved, via, note,
    request_id, audit_id, created_at)
  SELECT $2, $3, $1, $4, $5, $6, $7, $8, $9, $10, statement_timestamp() FROM moved
)
SELECT * FROM moved
"""
EXPIRE_ONE = f"""
UPDATE approvals SET status = 'expired', ended_at = clock_timestamp(),
  audit_id = gen_random_uuid()
WHERE id = $1 AND status = 'pending' AND expires_at <= clock_timestamp()
RETURNING {COLUMNS}, audit_id
"""
EXPIRE_ALL = f"""
UPDATE approvals SET status = 'expired', ended_at = clock_timestamp(),
  audit_id = gen_random_uuid()
WHERE status = 'pending' AND expires_at <= clock_timestamp() RETURNING {COLUMNS}, audit_id
"""
# Using an approval up and recording the intent of its call are one move.
USE = f"""
WITH used AS (
  UPDATE approvals SET status = 'consumed', consumed_at = clock_timestamp()
  WHERE id = $1 AND status = 'approved' AND args_sha256 = $2
    AND EXISTS (SELECT 1 FROM users u WHERE u.id = approvals.requested_by AND u.active)
  RETURNING {COLUMNS}
),
sent AS (
  UPDATE tool_calls SET status = 'dispatched', intent_at = clock_timestamp()
  WHERE id = (SELECT tool_call_id FROM used) AND status = ANY($3) RETURNING id
)
SELECT used.*, EXISTS (SELECT 1 FROM sent) AS sent FROM used
"""
ASKER_THERE = """
SELECT EXISTS (SELECT 1 FROM users u WHERE u.id = a.requested_by AND u.active)
FROM approvals a WHERE a.id = $1
"""
CANCEL = f"""
UPDATE approvals SET status = 'cancelled', ended_at = clock_timestamp(),
  audit_id = gen_random_uuid()
WHERE id = $1 AND status = ANY($2) RETURNING {COLUMNS}, audit_id
"""
CANCEL_RUN = f"""
UPDATE approvals SET status = 'cancelled', ended_at = clock_timestamp(),
  audit_id = gen_random_uuid()
WHERE run_id = $1 AND status = ANY($2) RETURNING {COLUMNS}, audit_id
"""
CANCEL_CALLS = """
UPDATE tool_calls SET status = 'cancelled', error = $2, args_sealed = NULL
WHERE run_id = $1 AND status = 'waiting_approval'
"""


def approval_of(row: asyncpg.Record) -> Approval:
    """The record of a row; columns that it does not have are left out."""
    return Approval.model_validate(dict(row))
