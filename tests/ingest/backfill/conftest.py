"""A house whose organisation has a second space to fill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.ingest.backfill.filling import Filling
from tests.ingest.conftest import MakeHouse
from tests.ingest.memory_source import MemorySource, chain

MakeFilling = Callable[..., Awaitable[Filling]]


@pytest.fixture
def make_filling(make_house: MakeHouse) -> MakeFilling:
    async def make(size: int = 100) -> Filling:
        return await Filling.of(await make_house(MemorySource(graph=chain(size))))

    return make
