"""What the budgets of the organisation, the user and so on say to calls outside of runs."""

from __future__ import annotations

from contextlib import aclosing

import structlog

from agentcy_ray.agent.spending import Spending, used_in_vain
from agentcy_ray.api.routes.v1.pieces import Call, Finish, Pieces, Reasoning, Words
from agentcy_ray.api.routes.v1.plain import plain_pieces
from agentcy_ray.api.routes.v1.writer import arguments_of
from agentcy_ray.budgets.amounts import Spent
from agentcy_ray.budgets.records import Reservation
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.events import Usage
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.llm.model import Model, ModelRequest, estimate_tokens
from agentcy_ray.retrieval.embedder import Embedded, MeteredEmbedder

log = structlog.get_logger(__name__)


async def budgeted_pieces(
    spending: Spending, principal: Principal, model: Model, request: ModelRequest
) -> Pieces:
    """As ``plain_pieces``, held before the first one and settled after the last.

    An answer that is cut off is settled by what was said of it.

    Raises:
        BudgetExceededError: a limit does not allow it, or waits for an approval.
        ModelError, InvalidError: as ``plain_pieces``.
    """
    estimate = spending.estimate(model.reference, request)
    held = await spending.hold_call(principal, model.reference, estimate)
    if held.id is not None:
        request = spending.bounded(request)
    said: list[str] = []
    usage: Usage | None = None
    try:
        async with aclosing(plain_pieces(model, request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Words | Reasoning):
                    said.append(piece.text)
                elif isinstance(piece, Call):
                    said.append(arguments_of(piece.call))
                elif isinstance(piece, Finish):
                    usage = piece.usage
                yield piece
    finally:
        spent = None
        if usage is not None and not (usage.estimated and usage.cost_usd is None):
            spent = Spent.of(usage)
        elif said or usage is not None:
            spent = used_in_vain(spending, model.reference, request, "".join(said))
        await _close(spending, held, spent)


async def embedded(
    spending: Spending,
    principal: Principal,
    reference: str,
    embedder: MeteredEmbedder,
    texts: list[str],
) -> Embedded:
    """Vectors of texts, within the budgets.

    Raises:
        BudgetExceededError: a limit does not allow it, or waits for an approval.
        EmbedderUnavailableError, EmbedderRefusedError: as the embedder's.
    """
    estimate = spending.vectors(reference, sum(map(estimate_tokens, texts)))
    held = await spending.hold_call(principal, reference, estimate)
    spent: Spent | None = None
    try:
        made = await embedder.embed_metered(texts)
        used = made.usage
        spent = Spent(used.tokens, 0, used.cost_usd, used.gpu_secs)
        spending.embedded(reference, spent)
    finally:
        await _close(spending, held, spent)
    return made


async def _close(spending: Spending, held: Reservation, spent: Spent | None) -> None:
    """Settle, or give back where nothing was used. What is not kept expires or is swept later: the
    answer is made, and its caller gets it."""
    try:
        if spent is None:
            await spending.ledger.release(held)
        else:
            await spending.ledger.settle(held, spent)
    except StoreUnavailableError as error:
        log.warning("budget_not_settled", reservation=held.id, reason=error.message)
