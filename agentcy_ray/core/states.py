"""State machines as data. Any move that is not listed here is refused.

SQL enforces them by a guarded ``UPDATE … WHERE status = ANY(<sources_of(machine, target)>)``, so
two processes that race for a move cannot both win it.
"""

from __future__ import annotations

from collections.abc import Mapping

Machine = Mapping[str, frozenset[str]]
"""State → the states that may follow it."""


def _machine(text: str) -> Machine:
    """Read ``a|b→c|d`` moves, separated by blanks or line ends."""
    table: dict[str, set[str]] = {}
    for move in text.split():
        left, _, right = move.partition("→")
        for state in left.split("|"):
            table.setdefault(state, set()).update(right.split("|"))
        for state in right.split("|"):
            table.setdefault(state, set())
    return {state: frozenset(after) for state, after in table.items()}


SOURCE = _machine(
    "draft→ready ready|synced|failed→running running→publishing|failed"
    " publishing→synced|failed ready|synced|failed→draft"
)
SYNC_RUN = _machine(
    "pending→running|cancelled running→publishing|failed|cancelled publishing→synced|failed"
)
RUN = _machine(
    "queued→running|cancelled running→waiting_approval waiting_approval→running"
    " running→completed|failed|cancelled waiting_approval→cancelled|failed"
)
TOOL_CALL = _machine(
    "routed→denied|waiting_approval|dispatched waiting_approval→dispatched|denied|cancelled"
    " dispatched→completed|error|indeterminate|cancelled indeterminate→completed|error"
)
APPROVAL = _machine("pending→approved|denied|expired|cancelled approved→consumed|cancelled")
JOB = _machine(
    "queued→running|cancelled running→succeeded|retry_wait|dead|cancelled"
    " retry_wait→queued dead→queued"
)
EMBEDDING_SPACE = _machine(
    "building→ready|failed ready→failed failed→building|dropped ready→active active→retired"
    " retired→active|dropped"
)
ENGINE_MIGRATION = _machine(
    "planned→backfilling backfilling→verifying verifying→cutover cutover→done"
    " planned|backfilling|verifying→failed|cancelled failed→backfilling"
)
EMBEDDING_SWAP = _machine(
    "planned→backfilling backfilling→checking checking→ready|cut_over ready→checking|cut_over"
    " cut_over→done|rolled_back planned|backfilling|checking|ready→failed|cancelled"
    " failed→backfilling"
)
EMBED_BACKFILL = _machine(
    "queued→running|paused|cancelled|failed running→queued|paused|done|failed|cancelled"
    " paused→queued|cancelled failed→queued"
)

MACHINES: Mapping[str, Machine] = {
    "source": SOURCE,
    "sync_run": SYNC_RUN,
    "run": RUN,
    "tool_call": TOOL_CALL,
    "approval": APPROVAL,
    "job": JOB,
    "embedding_space": EMBEDDING_SPACE,
    "engine_migration": ENGINE_MIGRATION,
    "embedding_swap": EMBEDDING_SWAP,
    "embed_backfill": EMBED_BACKFILL,
}


def may(machine: Machine, current: str, target: str) -> bool:
    """Whether ``current → target`` is a listed move."""
    return target in machine.get(current, frozenset())


def sources_of(machine: Machine, target: str) -> list[str]:
    """The states from which ``target`` may be reached, sorted; the list of a guarded UPDATE."""
    return sorted(state for state, after in machine.items() if target in after)


def ends(machine: Machine) -> frozenset[str]:
    """The states that nothing leaves."""
    return frozenset(state for state, after in machine.items() if not after)
