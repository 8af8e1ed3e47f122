"""What people ask of embedding spaces: list, make, fill, check, activate, drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.errors import ConflictError, NotFoundError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.backfill.records import OPEN, Backfill, BackfillOptions
from agentcy_ray.ingest.swap.switch import Switch
from agentcy_ray.retrieval.space import Distance, Space, Storage

if TYPE_CHECKING:
    from agentcy_ray.core.tenancy import Principal
    from agentcy_ray.ingest.backfill.store import BackfillStore
    from agentcy_ray.ingest.swap.gate import Measure
    from agentcy_ray.ingest.swap.requests import SwapRequests
    from agentcy_ray.retrieval.one_embedder import AnyEmbedders
    from agentcy_ray.retrieval.routing import Routes
    from agentcy_ray.retrieval.spaces import SpaceStore

PERMISSION = "embedding.manage"


class NewSpace(BaseModel):
    """A space that is to be made, beside the one that answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedder: str = Field(min_length=3, max_length=300)
    """Reference of the model."""
    storage: Storage | None = None
    distance: Distance = "cosine"
    backfill: bool = True
    """Fill it at once."""
    engine: Literal["coordinator", "ray-data"] = "coordinator"


class BackfillStart(BaseModel):
    """How a space is to be filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["coordinator", "ray-data"] = "coordinator"
    options: BackfillOptions = BackfillOptions()


class BackfillChange(BaseModel):
    """How a backfill is gone on with; what is not named stays as it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["coordinator", "ray-data"] | None = None
    options: BackfillOptions | None = None


class SpaceState(BaseModel):
    """A space with its newest backfill, and how far that is."""

    model_config = ConfigDict(frozen=True)

    space: Space
    backfill: Backfill | None = None
    progress: dict[str, Any] | None = None

    @property
    def open(self) -> bool:
        """Whether something may still happen to it by itself."""
        return self.backfill is not None and self.backfill.status in OPEN


@dataclass(frozen=True)
class EmbeddingDesk:
    """The doors to spaces, backfills and swaps of a process."""

    spaces: SpaceStore
    embedders: AnyEmbedders
    backfills: BackfillStore
    swaps: SwapRequests
    switch: Switch
    routes: Routes
    measure: Measure

    async def states(self, org_id: UUID) -> Sequence[SpaceState]:
        """All spaces but dropped ones, newest first."""
        newest: dict[UUID, Backfill] = {}
        for backfill in await self.backfills.list(org_id, limit=200):
            newest.setdefault(backfill.space_id, backfill)
        return [_state(space, newest.get(space.id)) for space in await self.spaces.list(org_id)]

    async def state(self, org_id: UUID, space_id: UUID) -> SpaceState:
        """One space.

        Raises:
            NotFoundError: no such space.
        """
        space = await self.spaces.get(org_id, space_id)
        latest = await self.backfills.list(org_id, space_id=space_id, limit=1)
        return _state(space, latest[0] if latest else None)

    async def create(self, principal: Principal, new: NewSpace) -> SpaceState:
        """Make a space of a model, and fill it.

        Raises:
            ConflictError: one like it is ready, active or retired.
            InvalidError: there is no such kind of model, or no index takes its vectors.
            EmbedderUnavailableError: the model is away or cannot be loaded.
        """
        principal.require(PERMISSION)
        embedder = await self.embedders.of(new.embedder)
        await embedder.embed([])  # one in other processes has to be up to know its name
        space = await self.spaces.create(
            principal.org_id, embedder.info, storage=new.storage, distance=new.distance
        )
        if new.backfill:
            await self.backfills.start(
                principal.org_id, space.id, engine=new.engine, user_id=principal.user_id
            )
        return await self.state(principal.org_id, space.id)

    async def fill(self, principal: Principal, space_id: UUID, how: BackfillStart) -> SpaceState:
        """Fill a space that is being built; one that is under way is answered instead.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``state_conflict``, the space is not being built.
        """
        principal.require(PERMISSION)
        await self.backfills.start(
            principal.org_id, space_id, engine=how.engine, options=how.options,
            user_id=principal.user_id,
        )  # fmt: skip
        return await self.state(principal.org_id, space_id)

    async def control(
        self,
        principal: Principal,
        space_id: UUID,
        verb: Literal["pause", "resume", "cancel"],
        change: BackfillChange | None = None,
    ) -> SpaceState:
        """Hold the newest backfill of a space, go on with it, or end it.

        Args:
            principal: who asks.
            space_id: of the space that it fills.
            verb: what is to be done.
            change: of its engine and bounds, with ``resume``.

        Raises:
            NotFoundError: no such space, or nothing ever filled it.
            ConflictError: ``state_conflict``, the backfill is in no state for that.
        """
        principal.require(PERMISSION)
        org_id = principal.org_id
        latest = await self.latest(org_id, space_id)
        if verb == "pause":
            await self.backfills.pause(org_id, latest.id)
        elif verb == "resume":
            how = change or BackfillChange()
            await self.backfills.resume(org_id, latest.id, engine=how.engine, options=how.options)
        else:
            await self.backfills.cancel(org_id, latest.id)
        return await self.state(org_id, space_id)

    async def latest(self, org_id: UUID, space_id: UUID) -> Backfill:
        """The newest backfill of a space.

        Raises:
            NotFoundError: no such space, or nothing ever filled it.
        """
        state = await self.state(org_id, space_id)
        if state.backfill is None:
            raise NotFoundError(
                f"nothing ever filled {encode('spc', space_id)}; `agentcy embed backfill` does"
            )
        return state.backfill

    async def check(self, principal: Principal, space_id: UUID) -> SpaceState:
        """Compare the index of a space with an exact search; the figures are kept with it.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``state_conflict``, it has no index yet.
        """
        principal.require(PERMISSION)
        org_id = principal.org_id
        space = await self.spaces.get(org_id, space_id)
        if space.indexed_at is None:
            raise ConflictError(
                f"{encode('spc', space_id)} is {space.status} and has no index yet; wait for its "
                "backfill",
                code="state_conflict",
                status=space.status,
            )
        await self.measure.recall(space)
        return await self.state(org_id, space_id)

    async def activate(
        self, principal: Principal, space_id: UUID, *, force: bool = False
    ) -> SpaceState:
        """Let a space answer: see ``Switch.to``."""
        principal.require(PERMISSION)
        await self.switch.to(principal.org_id, space_id, user_id=principal.user_id, force=force)
        return await self.state(principal.org_id, space_id)

    async def drop(self, principal: Principal, space_id: UUID) -> None:
        """Remove a retired or failed space for good, or one that nothing fills or wants.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``space_active``: it is searched; ``state_conflict``: it is being
                filled, or a swap goes to it; ``conflict``: searches held the table for too long.
        """
        principal.require(PERMISSION)
        org_id = principal.org_id
        state = await self.state(org_id, space_id)
        swap = await self.swaps.open_to(org_id, space_id)
        if swap is not None:
            raise ConflictError(
                f"swap {encode('swp', swap.id)} goes to {encode('spc', space_id)}; "
                "`agentcy embed cancel` ends it first",
                code="state_conflict",
                swap_id=encode("swp", swap.id),
            )
        if state.space.status in {"building", "ready"} and not state.open:
            error = {"code": "cancelled", "message": "it was dropped unused", "details": {}}
            await self.spaces.fail(org_id, space_id, error)
        await self.spaces.drop(org_id, space_id)
        await self.swaps.over(org_id, space_id)  # upkeep would, within the hour
        await self.routes.changed(
            principal.org_id, {"event": "space.dropped", "space_id": encode("spc", space_id)}
        )


def _state(space: Space, backfill: Backfill | None) -> SpaceState:
    progress = None if backfill is None else backfill.progress()
    return SpaceState(space=space, backfill=backfill, progress=progress)
