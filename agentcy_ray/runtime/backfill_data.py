"""``--engine ray-data``: a backfill as a Ray Data pipeline over the cluster.

Stretches of blocks → ``CutStage`` on CPU actors → ``FillStage`` on actors that hold the model,
sized by the cluster config. Ray Data places them, keeps their queues bounded and starts actors
anew; what is done is said by the rows of the blocks, not by its own checkpoints, which are coarse.
Blocks that a publish held up are few and are driven by the coordinator, in this process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from agentcy_ray.core.errors import EmbedderUnavailableError, InvalidError
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.backfill.coordinator import Coordinator
from agentcy_ray.ingest.backfill.work import Work
from agentcy_ray.retrieval.embedder import EmbedderInfo
from agentcy_ray.retrieval.served_embedder import open_served
from agentcy_ray.runtime.backfill_stages import CutStage, FillStage, Task, error_of
from agentcy_ray.runtime.cluster_config.models import ServedModel
from agentcy_ray.runtime.cluster_config.parts import EmbeddingActors
from agentcy_ray.runtime.served_models import ServedModels
from agentcy_ray.runtime.vllm_batch import GatherStage, processor, text_rows

STRETCH_BLOCKS = 16
"""Blocks that one task cuts: enough to read a row group once, few enough to spread a source."""
CUT_CPUS = 0.5


@dataclass(frozen=True)
class RayDataDriver:
    """A ``Driver`` over Ray Data; this process is connected to the cluster."""

    settings: Settings
    database_url: str
    part: EmbeddingActors
    """Bounds and needs of the actors that embed."""
    models: tuple[ServedModel, ...] = ()
    """Of the cluster config: spaces of those that embed are filled by engines of vLLM."""

    async def run(self, work: Work) -> int:
        """Take every open block once; see ``Driver``.

        Raises:
            InvalidError: the model is one that is asked over the network.
        """
        stretches = await _stretches(work)
        if stretches is None:
            return await Coordinator().run(work)
        scheme = work.space.embedder.partition(":")[0]
        served = await self._served(work) if scheme == "vllm" else None
        if served is None and scheme not in {"local", "scripted"}:
            raise InvalidError(
                f"{work.space.embedder} is reached over the network, where a pipeline on the "
                "cluster gains nothing; use the engine coordinator",
                errors=[{"loc": ["engine"], "message": "not for this model"}],
            )
        task = Task(
            self.settings, self.database_url, work.backfill, work.space,
            self.part.actors.max, self.part.threads, self.part.whole_gpus,
        )  # fmt: skip
        done = 0
        async with aclosing(_consumed(lambda: self._results(task, stretches, served))) as results:
            async for row in results:
                error = error_of(row)
                if error is not None:
                    raise error
                rates = work.gauge.add(row["nodes"], row["chunks"], row["tokens"])
                work.gauge.tell(rates)
                await work.rows.rates(work.backfill, rates)
                done += row["done"]
                work.probe("written")
        return done

    async def _served(self, work: Work) -> tuple[ServedModel, EmbedderInfo]:
        """The model of a ``vllm:`` space, which is still the one that the space was made by.

        Raises:
            InvalidError: the cluster config lists no such model, or it has other weights now.
            EmbedderUnavailableError: the model is not ready.
        """
        reference = work.space.embedder
        name = reference.partition(":")[2]
        model = next((one for one in self.models if one.name == name), None)
        if model is None or model.task != "embed":
            raise InvalidError(
                f"{reference} is no embedding model of the cluster config; list it there under "
                "models, with task: embed",
                errors=[{"loc": ["engine"], "message": "not in the cluster config"}],
            )
        found = await open_served(reference, name, ServedModels(self.models))
        work.space.require(found.info)
        return model, found.info

    def _results(
        self,
        task: Task,
        stretches: pa.Table,
        served: tuple[ServedModel, EmbedderInfo] | None,
    ) -> Iterator[dict[str, Any]]:
        """Run the pipeline; blocks, belongs on a thread of its own."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        actors = self.part.actors
        needs = self.part.actor_options()
        dataset: Any = ray.data.from_arrow([
            stretches.slice(i, 1) for i in range(stretches.num_rows)
        ])
        cut = dataset.map_batches(
            CutStage, fn_constructor_args=(task,), batch_size=1, batch_format="pyarrow",
            concurrency=(1, max(1, actors.max)), num_cpus=CUT_CPUS,
        )  # fmt: skip
        if served is not None:
            model, info = served
            texts = cut.map_batches(text_rows, batch_size=None, batch_format="pyarrow", num_cpus=0)
            filled = processor(model)(texts).map_batches(
                GatherStage, fn_constructor_args=(task, info), batch_size=None,
                batch_format="pyarrow", concurrency=1, num_cpus=CUT_CPUS,
            )  # fmt: skip
        else:
            filled = cut.map_batches(
                FillStage, fn_constructor_args=(task,), batch_size=1, batch_format="pyarrow",
                concurrency=(actors.min, actors.max), **needs,
            )  # fmt: skip
        for batch in filled.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()


async def _stretches(work: Work) -> pa.Table | None:
    """Open blocks that no publish has held up, in stretches of one source."""
    rows: list[dict[str, Any]] = []
    for source_id in await work.reader.sources():
        blocks = [b for b in await work.reader.open_blocks(source_id) if not b.again]
        package_id, at = await work.reader.current(source_id)
        for start in range(0, len(blocks), STRETCH_BLOCKS):
            rows.append({
                "package_id": package_id.hex if package_id else "",
                "at": at,
                "blocks": orjson.dumps([
                    (b.no, b.source_id.hex, b.after_key, b.last_key, b.nodes)
                    for b in blocks[start : start + STRETCH_BLOCKS]
                ]),
            })
    schema = pa.schema([
        ("package_id", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("blocks", pa.binary()),
    ])
    return pa.Table.from_pylist(rows, schema=schema) if rows else None


async def _consumed(results: Any) -> AsyncGenerator[dict[str, Any]]:
    """Iterate a blocking pipeline on a thread of its own.

    Leaving early lets the thread go at its next row: the rows are few and every write is fenced.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()
    left = threading.Event()

    def tell(item: dict[str, Any] | BaseException | None) -> None:
        if not left.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def consume() -> None:
        from ray.exceptions import RayError

        try:
            for row in results():
                if left.is_set():
                    return
                tell(row)
            tell(None)
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            tell(
                EmbedderUnavailableError(f"the pipeline failed: {cause}; the next attempt goes on")
            )
        except Exception as error:  # noqa: BLE001 - it is raised where the rows are awaited
            tell(error)

    threading.Thread(target=consume, name="ray-data", daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
