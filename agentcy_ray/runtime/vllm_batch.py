"""A backfill of a ``vllm:NAME`` space through Ray's own LLM batch API: stages around its processor.

``CutStage`` → ``text_rows``, a row a text → ``ray.data.llm``'s processor, whose actors hold engines
of their own and take rows in any order → ``GatherStage``, one actor that brings the texts of a
block together again and writes it as any other driver does. What an actor held when it died is
repeated, since only the row of a block says that it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from agentcy_ray.core.errors import AgentcyError, ConfigError, EmbedderRefusedError
from agentcy_ray.ingest.backfill.embedding import HARMLESS
from agentcy_ray.retrieval.embedder import (
    Embedded,
    EmbedderInfo,
    EmbedUsage,
    Matrix,
    MeteredEmbedder,
    vectors_of,
)
from agentcy_ray.runtime.backfill_stages import (
    RESULT,
    FillStage,
    Task,
    cut_of,
    error_json,
    result,
)
from agentcy_ray.runtime.cluster_config.models import ServedModel
from agentcy_ray.runtime.llm_config import engine_kwargs, environment, placement, source_of
from agentcy_ray.runtime.model_fitness import has_vllm

BATCH_TEXTS = 256
"""Texts that an engine is given at once; it batches them by tokens itself."""
_EXPLODED = pa.schema([
    ("no", pa.int64()),
    ("at", pa.int64()),
    ("of", pa.int64()),
    ("cut", pa.large_binary()),  # the block's row, with its first text only
    ("text", pa.string()),
])


def processor(model: ServedModel) -> Any:
    """Ray's processor that adds ``vector`` (float32 bytes) and ``tokens`` to rows with ``text``.

    Args:
        model: an embedding model of the cluster config; its bounds are those of the engines.

    Raises:
        ConfigError: vLLM is not installed.
    """
    if not has_vllm():
        raise ConfigError(
            "ray.data.llm needs vLLM, which is not installed; run `pip install 'agentcy-ray[gpu]'` "
            "on every node, or use the engine coordinator"
        )
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    config = vLLMEngineProcessorConfig(
        model_source=source_of(model),
        task_type="embed",
        engine_kwargs=engine_kwargs(model),
        concurrency=(max(1, model.replicas.min), model.replicas.max),
        batch_size=BATCH_TEXTS,
        runtime_env={"env_vars": environment(model)},
        accelerator_type=model.accelerator_type,
        placement_group_config=placement(model),
        # One text that the engine refuses is recorded beside the others, as everywhere.
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    return build_processor(config, preprocess=_asked, postprocess=_answered)


def _asked(row: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": row["text"], "pooling_params": {}}


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    vector = np.asarray(row["embeddings"], dtype=np.float32).reshape(-1)
    kept = {name: row[name] for name in ("no", "at", "of", "cut", "text")}
    return {**kept, "vector": vector.tobytes(), "tokens": int(row["num_input_tokens"])}


def text_rows(batch: pa.Table) -> pa.Table:
    """Rows of cut blocks → a row a text; a block without any is one row without a text."""
    rows: list[dict[str, Any]] = []
    for row in batch.to_pylist():
        texts: list[str | None] = cut_of(row).chunks["text"].to_pylist() or [None]
        whole = pa.Table.from_pylist([row], schema=batch.schema)
        rows += [
            {
                "no": row["no"],
                "at": at,
                "of": len(texts),
                "cut": _written(whole) if at == 0 else None,
                "text": text if text is not None else "",
            }
            for at, text in enumerate(texts)
        ]
    return pa.Table.from_pylist(rows, schema=_EXPLODED)


@dataclass
class _Gathered:
    """What of a block has come."""

    cut: dict[str, Any] | None = None
    arrived: int = 0
    vectors: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    tokens: int = 0


class GatherStage(FillStage):
    """Brings the texts of a block together, and writes it under the same fences."""

    def __init__(self, task: Task, info: EmbedderInfo) -> None:
        super().__init__(task)
        self._found = _Found(info)
        self._blocks: dict[int, _Gathered] = {}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of texts with vectors → rows of ``RESULT``, one for each block that is complete."""
        return self._runner.run(self._gather(batch))

    async def _embedder(self) -> MeteredEmbedder:
        return self._found

    async def _gather(self, batch: pa.Table) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for row in batch.to_pylist():
            block = self._blocks.setdefault(row["no"], _Gathered())
            _take(block, row)
            if block.arrived < row["of"] or block.cut is None:
                continue
            del self._blocks[row["no"]]
            self._found.block = block
            try:
                rows.append(await self._one(cut_of(block.cut)))
            except AgentcyError as error:
                rows.append(result(error=error_json(error)))
        return pa.Table.from_pylist(rows, schema=RESULT)


def _take(block: _Gathered, row: dict[str, Any]) -> None:
    block.arrived += 1
    if row["cut"] is not None:
        block.cut = _read(row["cut"])
    vector: bytes | None = row.get("vector")
    if vector is None:
        block.refused[row["text"]] = str(row.get("__inference_error__") or "no vector came")
        return
    block.vectors[row["text"]] = np.frombuffer(vector, dtype=np.float32)
    block.tokens += int(row.get("tokens") or 0)


class _Found:
    """An ``Embedder`` that knows the vectors of one block already."""

    def __init__(self, info: EmbedderInfo) -> None:
        self._info = info
        self.block = _Gathered()

    @property
    def info(self) -> EmbedderInfo:
        """The model whose vectors these are."""
        return self._info

    async def embed(self, texts: Sequence[str]) -> pa.FixedSizeListArray:
        """Vectors of texts of the block, of unit length.

        Raises:
            EmbedderRefusedError: the engine refused one of them.
        """
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """As ``embed``, with the tokens that the engine has read for the block, told once.

        ``HARMLESS`` stands for any text of the block that the engine took.
        """
        texts = [*self.block.vectors][:1] or texts if [*texts] == [HARMLESS] else texts
        refused = next((text for text in texts if text not in self.block.vectors), None)
        if refused is not None:
            raise EmbedderRefusedError(
                f"{self._info.reference} refused a text: "
                f"{self.block.refused.get(refused, 'it was not asked')[:200]}; shorten or mend it",
                texts=True,
            )
        matrix: Matrix = np.stack([self.block.vectors[text] for text in texts])
        lengths = np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        tokens, self.block.tokens = self.block.tokens, 0
        vectors = vectors_of(np.divide(matrix, lengths, dtype=np.float32))
        return Embedded(vectors, EmbedUsage(tokens=tokens))


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _read(data: bytes) -> dict[str, Any]:
    found: list[dict[str, Any]] = pa.ipc.open_stream(data).read_all().to_pylist()
    return found[0]
