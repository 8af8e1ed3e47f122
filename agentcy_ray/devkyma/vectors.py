"""The three vector functions that kyma adds to SQL, over whole columns at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datafusion import ScalarUDF, udf

Floats = npt.NDArray[np.float64]

_LIST = pa.list_(pa.float64())


def vector_functions() -> list[ScalarUDF]:
    """cosine_distance, l2_distance and inner_product; NULL where the two do not match."""
    named: dict[str, Callable[[Floats, Floats], Floats]] = {
        "cosine_distance": _cosine,
        "l2_distance": _l2,
        "inner_product": _inner,
    }
    return [
        udf(_columnwise(measure), [_LIST, _LIST], pa.float64(), "immutable", name)
        for name, measure in named.items()
    ]


def _columnwise(measure: Callable[[Floats, Floats], Floats]) -> Callable[..., pa.Array]:
    def over(left: pa.Array, right: pa.Array) -> pa.Array:
        a, b = cast(Any, left), cast(Any, right)
        lengths, other = _lengths(a), _lengths(b)
        out = np.full(len(a), np.nan)
        fit = (lengths == other) & (lengths > 0)
        for width in np.unique(lengths[fit]):
            at = np.flatnonzero(fit & (lengths == width))
            rows = pa.array(at)
            pair = [
                np.asarray(side.take(rows).flatten(), dtype=np.float64).reshape(-1, width)
                for side in (a, b)
            ]
            out[at] = measure(*pair)
        return pa.array(out, mask=np.isnan(out))

    return over


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    lengths = column.value_lengths().fill_null(0)
    return np.asarray(lengths, dtype=np.int64)


def _cosine(a: Floats, b: Floats) -> Floats:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms > 0, 1 - np.einsum("ij,ij->i", a, b) / norms, np.nan)


def _l2(a: Floats, b: Floats) -> Floats:
    return np.linalg.norm(a - b, axis=1)


def _inner(a: Floats, b: Floats) -> Floats:
    return np.einsum("ij,ij->i", a, b)
