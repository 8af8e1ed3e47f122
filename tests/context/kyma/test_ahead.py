"""Reading ahead: in order, bounded, without holding a thread for a caller that is slow."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pyarrow as pa
import pytest

from agentcy_ray.context.kyma.ahead import AHEAD_BATCHES, Ahead


class Scripted:
    """A stream of so many batches, then the end, an error, or nothing until it is cancelled."""

    def __init__(self, batches: int, then: str = "end") -> None:
        self.batches, self.then = batches, then
        self.read = 0
        self.cancelled = threading.Event()

    def read_chunk(self) -> SimpleNamespace:
        if self.read < self.batches:
            self.read += 1
            return SimpleNamespace(data=_batch(self.read))
        if self.then == "waits":
            self.cancelled.wait(10)
        if self.then == "fails":
            raise pa.ArrowInvalid("disk on fire")
        raise StopIteration

    def cancel(self) -> None:
        self.cancelled.set()


def _batch(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": [number]})


async def _all(ahead: Ahead) -> list[int]:
    found: list[int] = []
    while (batch := await ahead.next()) is not None:
        found.append(batch["n"][0].as_py())
    return found


async def test_two_slow_readers_share_one_thread() -> None:
    many = 3 * AHEAD_BATCHES
    with ThreadPoolExecutor(1) as threads:
        readers = [Scripted(many), Scripted(many)]
        streams = [Ahead(threads, lambda reader=reader: reader) for reader in readers]
        async with asyncio.timeout(60):
            for number in range(1, many + 1):
                for reader, stream in zip(readers, streams, strict=True):
                    batch = await stream.next()
                    assert batch is not None
                    assert batch["n"][0].as_py() == number
                    assert reader.read <= number + 2 * AHEAD_BATCHES
            assert [await stream.next() for stream in streams] == [None, None]
            for stream in streams:
                await stream.close()


async def test_a_failure_comes_after_the_batches_before_it() -> None:
    with ThreadPoolExecutor(1) as threads:
        ahead = Ahead(threads, lambda: Scripted(3, then="fails"))
        async with asyncio.timeout(60):
            for number in (1, 2, 3):
                assert (await ahead.next()) == _batch(number)
            with pytest.raises(pa.ArrowInvalid, match="disk on fire"):
                await ahead.next()
            await ahead.close()


async def test_a_stream_that_is_left_is_cancelled_and_gives_its_thread_back() -> None:
    with ThreadPoolExecutor(1) as threads:
        reader = Scripted(1, then="waits")
        ahead = Ahead(threads, lambda: reader)
        async with asyncio.timeout(60):
            assert (await ahead.next()) == _batch(1)
            await ahead.close()
            assert reader.cancelled.is_set()
            assert await _all(Ahead(threads, lambda: Scripted(2))) == [1, 2]
