"""The one place that changes which space answers an organisation.

The space, the swap that brought it and the swap that it undoes move in one transaction; the bell
tells every process afterwards, and one that does not hear it asks again within seconds. Until it
does it searches the former space, by the former model, which is complete for days.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.core.errors import ConflictError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.swap.records import Swap
from agentcy_ray.ingest.swap.store import Swaps, lost

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.retrieval.routing import Routes
    from agentcy_ray.retrieval.spaces import Space, SpaceStore
    from agentcy_ray.stores.postgres import Database


class Switch:
    """Activates spaces: the cut-over of a swap, and the way back."""

    def __init__(
        self, db: Database, spaces: SpaceStore, routes: Routes, settings: Settings
    ) -> None:
        self._spaces = spaces
        self._routes = routes
        self._settings = settings
        self._swaps = Swaps(db)

    async def to(
        self,
        org_id: UUID,
        space_id: UUID,
        *,
        user_id: UUID | None = None,
        force: bool = False,
        epoch: int | None = None,
    ) -> Space:
        """Let a space answer from now on; the former one is kept and written for its grace.

        Args:
            org_id: whose.
            space_id: of a ready space, or of a retired one to go back to.
            user_id: who asked for it.
            force: whatever the gate says.
            epoch: of the worker that carries its swap out; None when a person asks.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``space_active``, or ``state_conflict``: it is not complete, or its
                gate says no and ``force`` is not given.
            LeaseLostError: another worker carries the swap out.
        """

        async def along(connection: Any, space: Space, former: Space | None) -> None:
            swap = await self._swaps.open_to(connection, space.id)
            if swap is None:
                if space.status == "retired":
                    former_id = None if former is None else former.id
                    await self._swaps.returned(connection, space.id, former_id)
                elif not force:
                    self._require_recall(space)
                return
            if not force:
                _require_gate(swap)
            elif swap.gate is None or not swap.gate.passed:
                await self._swaps.forced(connection, swap.id, user_id)
            if await self._swaps.move(connection, swap.id, "cut_over", epoch=epoch) is None:
                if epoch is not None:
                    raise lost(swap.id)
                raise ConflictError(
                    f"swap {encode('swp', swap.id)} is {swap.status}; activate its space once it "
                    "is ready",
                    code="state_conflict",
                    status=swap.status,
                )
            if former is not None:  # another one than at its start, where somebody went back since
                await self._swaps.left(connection, swap.id, former.id)

        grace = timedelta(days=self._settings.embedding_retired_days)
        space = await self._spaces.activate(org_id, space_id, grace, along=along)
        await self._routes.changed(
            org_id, {"event": "space.activated", "space_id": encode("spc", space.id)}
        )
        return space

    def _require_recall(self, space: Space) -> None:
        """A space that no swap brought has the figure of its backfill's check alone."""
        floor = self._settings.embedding_min_recall
        mean = (space.recall or {}).get("mean")
        if mean is None or mean < floor:
            raise ConflictError(
                f"{encode('spc', space.id)} has "
                + ("not been checked" if mean is None else f"recall@10 of {mean:.3f}")
                + f", and {floor:g} is asked for; check it (`agentcy embed check`), or force it",
                code="state_conflict",
                recall=mean,
                floor=floor,
            )


def _require_gate(swap: Swap) -> None:
    if swap.gate is not None and swap.gate.passed:
        return
    why = "it has not been checked" if swap.gate is None else "; ".join(swap.gate.refused)
    raise ConflictError(
        f"swap {encode('swp', swap.id)} may not cut over: {why}; mend it and check again "
        "(`agentcy embed check`), or force it (`agentcy embed activate --force`)",
        code="state_conflict",
        swap_id=encode("swp", swap.id),
        refused=[] if swap.gate is None else list(swap.gate.refused),
    )
