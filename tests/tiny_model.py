"""A sentence-transformers model made on the spot: random weights, a tokenizer trained on the spot.

It stands for "another model" wherever a test needs two: loaded, hashed and run like any model from
a hub, without a network and in a moment. Its vectors are of 64 numbers; like words give like
vectors, since pooling averages embeddings that two random layers hardly mix.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.made_model import Shape, make_model

TINY = Shape(layers=2, hidden=64, heads=4, vocabulary=2_000, positions=256)
DIM = TINY.hidden


def make_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the model into ``folder``; two seeds give two models of one shape."""
    return make_model(folder, TINY, seed=seed)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model; its reference is ``local:<folder>``."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
