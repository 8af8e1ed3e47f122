"""The stages around Ray's LLM batch processor: a row a text, and a block together again."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from agentcy_ray.core.errors import ConfigError, EmbedderRefusedError
from agentcy_ray.retrieval.embedder import EmbedderInfo, matrix_of
from agentcy_ray.runtime.backfill_stages import CUT, result
from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.model_fitness import has_vllm
from agentcy_ray.runtime.vllm_batch import GatherStage, processor, text_rows

INFO = EmbedderInfo(reference="vllm:m", signature="vllm:m@1/64", dim=2, max_tokens=64)


def _ipc(**columns: list[Any]) -> bytes:
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _cut(no: int, *texts: str) -> dict[str, Any]:
    return {
        "no": no, "source_id": "0" * 32, "last_key": "k", "nodes": 1, "package_id": "",
        "ids": _ipc(id=["a"], hash=[b"h"]), "chunks": _ipc(text=list(texts)),
    }  # fmt: skip


class Written(GatherStage):
    """The stage, with the vectors that a block would be written with in place of the tables."""

    def __init__(self) -> None:
        super().__init__(None, INFO)  # pyright: ignore[reportArgumentType]
        self.seen: dict[int, Any] = {}

    async def _one(self, cut: Any) -> dict[str, Any]:
        found = await self._embedder()
        made = await found.embed_metered(cut.chunks["text"].to_pylist())
        self.seen[cut.block.no] = matrix_of(made.vectors), made.usage.tokens
        return result(nodes=1, chunks=len(made.vectors), tokens=made.usage.tokens, done=True)


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    number = float(row["text"])
    return {**row, "vector": np.array([number, 0], np.float32).tobytes(), "tokens": 3}


def test_texts_that_come_back_in_any_order_are_a_block_again() -> None:
    rows = text_rows(pa.Table.from_pylist([_cut(1, "1", "2", "3"), _cut(2, "4")], schema=CUT))
    given = [_answered(row) for row in rows.to_pylist()]
    assert [row["cut"] is not None for row in given] == [True, False, False, True]
    random.Random(3).shuffle(given)
    stage, told = Written(), list[dict[str, Any]]()
    for row in given:
        told += stage(pa.Table.from_pylist([row])).to_pylist()
    assert sorted(row["chunks"] for row in told) == [1, 3]
    vectors, tokens = stage.seen[1]
    assert vectors.tolist() == [[1, 0]] * 3  # of unit length
    assert tokens == 9


def test_a_text_that_the_engine_refuses_is_refused_by_name() -> None:
    rows = text_rows(pa.Table.from_pylist([_cut(1, "1", "2")], schema=CUT)).to_pylist()
    refused = {**rows[1], "vector": None, "tokens": None, "__inference_error__": "too long"}
    taken = {**_answered(rows[0]), "__inference_error__": ""}
    [told] = Written()(pa.Table.from_pylist([taken, refused])).to_pylist()
    assert not told["done"]
    assert EmbedderRefusedError.code in told["error"].decode()
    assert "too long" in told["error"].decode()


def test_a_block_without_texts_still_arrives() -> None:
    [row] = text_rows(pa.Table.from_pylist([_cut(1)], schema=CUT)).to_pylist()
    assert (row["of"], row["text"]) == (1, "")


@pytest.mark.skipif(has_vllm(), reason="vLLM is here")
def test_without_vllm_the_pipeline_is_refused_with_what_to_do() -> None:
    [model] = ClusterConfig.model_validate({
        "models": [{"name": "m", "hf_id": "a/b", "task": "embed"}]
    }).models
    with pytest.raises(ConfigError, match="use the engine coordinator"):
        processor(model)
