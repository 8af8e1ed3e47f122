"""What was used: sums over the usage ledger by day, agent, user and model.

Runs are in it once they have ended, everything else at once. Days are the organisation's own.
"""

from __future__ import annotations

from datetime import date
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.ids import encode
from agentcy_ray.stores.postgres import Database

Group = Literal["day", "agent", "user", "model"]
MAX_DAYS = 400
ROWS = 10_000
"""Of a report at most; one with more is to be asked for in parts."""
_COLUMNS: dict[Group, str] = {
    "day": "day", "agent": "agent", "user": "user_id", "model": "model",
}  # fmt: skip
_TODAY = "SELECT budget_day($1)"


class UsageRow(BaseModel):
    """Sums of one group; what it is not grouped by is absent."""

    model_config = ConfigDict(frozen=True)

    day: date | None = None
    agent: str | None = None
    user: str | None = None
    """``usr_…``; empty for what no user asked for."""
    model: str | None = None
    in_tokens: int
    out_tokens: int
    cost_usd: float
    gpu_seconds: float
    tool_calls: int


class UsageReport(BaseModel):
    """Sums over whole days, both ends included."""

    model_config = ConfigDict(frozen=True)

    since: date
    until: date
    rows: tuple[UsageRow, ...]


async def report(
    db: Database,
    org_id: UUID,
    group_by: tuple[Group, ...],
    since: date | None = None,
    until: date | None = None,
) -> UsageReport:
    """What an organisation used, grouped, the dearest first and days in their order.

    Args:
        db: where the ledger is.
        org_id: whose.
        group_by: what tells the rows apart; the sum of everything when empty.
        since: first day; None = the same as ``until``.
        until: last day; None = today.

    Raises:
        InvalidError: the days are too many or in the wrong order, or the rows are too many.
    """
    columns = [_COLUMNS[group] for group in dict.fromkeys(group_by)]
    grouped = ", ".join(columns)
    order = ("day, " if "day" in columns else "") + "sum(cost_usd) DESC, sum(in_tokens) DESC"
    statement = f"""
    SELECT {grouped + "," if columns else ""} coalesce(sum(in_tokens), 0)::bigint AS in_tokens,
      coalesce(sum(out_tokens), 0)::bigint AS out_tokens, coalesce(sum(cost_usd), 0) AS cost_usd,
      coalesce(sum(gpu_seconds), 0) AS gpu_seconds,
      coalesce(sum(tool_calls), 0)::bigint AS tool_calls
    FROM usage_ledger WHERE day BETWEEN $1 AND $2
    {f"GROUP BY {grouped} ORDER BY {order}" if columns else ""} LIMIT {ROWS + 1}
    """
    async with db.tenant(org_id) as connection:
        until = until or await connection.fetchval(_TODAY, org_id)
        assert until is not None
        since = since or until
        if not 0 <= (until - since).days < MAX_DAYS:
            raise InvalidError(f"ask for 1 to {MAX_DAYS} days, the earlier one as `since`")
        found = await connection.fetch(statement, since, until)
    if len(found) > ROWS:
        raise InvalidError(f"the report has more than {ROWS} rows; ask for fewer days or groups")
    return UsageReport(since=since, until=until, rows=tuple(_row(dict(row)) for row in found))


def _row(row: dict[str, object]) -> UsageRow:
    user = row.pop("user_id", None)
    if isinstance(user, UUID):
        row["user"] = encode("usr", user) if user.int else ""
    return UsageRow.model_validate(row)
