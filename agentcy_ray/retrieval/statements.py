"""The SQL of searching: built for the filters at hand, so that Postgres plans for just these.

Every part reads ``live.<table>``, the view of live rows of the asking organisation, and repeats the
filters in its own WHERE: nothing is scored that may not be returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pgvector import HalfVector, Vector

from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import decode
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.queries import Filters, HybridQuery
from agentcy_ray.retrieval.space import DISTANCES, Space
from agentcy_ray.retrieval.words import comparable, like_pattern, terms

TERM_ROWS = 100
"""Chunks looked at for each word. A rarer word is found wholly; a commoner one says little."""
NAME_ROWS = 50
ALL_TERMS = 6
"""So many words, from the first on, are also looked for together."""
STATEMENT_TIMEOUT_MS = 10_000

_RECENCY = """
CASE WHEN seen_at IS NULL THEN 1.0::float8 ELSE 1.0 + 0.1 * power(2.0::float8,
  -greatest(0, extract(epoch FROM now() - seen_at)::float8) / 86400 / 30) END
"""
_SHOWN = (
    "node_id, realm, labels, source_id, connector, external_id, name, text, url, properties, "
    "seen_at"
)

# What the index found, and whether rows that pass the filters were missed: an index walk ends when
# it has seen too many rows that do not pass. The count is taken only when there were too few.
_FOUND = """
found AS (
  SELECT n.n, CASE WHEN n.n < {limit} THEN
    n.n < (SELECT count(*) FROM (SELECT FROM {view} WHERE {where} LIMIT {limit}) eligible)
    ELSE false END AS missed
  FROM (SELECT count(*) AS n FROM nearest) n)
"""
_NEAREST = """
nearest AS MATERIALIZED (
  SELECT chunk_key, {distance} AS distance FROM {view} WHERE {where}
  ORDER BY {distance} LIMIT {limit})
"""
_BY_TERM = """
SELECT m.chunk_key, m.weight FROM unnest({patterns}::text[]) AS t(pattern) CROSS JOIN LATERAL (
  SELECT s.chunk_key, 1.0 / count(*) OVER () AS weight
  FROM (SELECT chunk_key FROM {view} WHERE text ILIKE t.pattern AND {where} LIMIT {rows}) s) m
"""
_BY_NAME = """
SELECT m.chunk_key, m.weight FROM unnest({words}::text[]) AS t(word) CROSS JOIN LATERAL (
  SELECT s.chunk_key, 1.0 / count(*) OVER () AS weight
  FROM (SELECT chunk_key FROM {view} WHERE name %> t.word AND {where} LIMIT {rows}) s) m
"""
_BY_ALL = """
(SELECT chunk_key, 2.0 AS weight FROM {view} WHERE {together} AND {where} LIMIT {rows})
"""
_LEXICAL = """
lexical AS (
  SELECT chunk_key FROM ({arms}) arm GROUP BY chunk_key
  ORDER BY sum(weight) DESC, chunk_key LIMIT {limit})
"""
_HYBRID = """
WITH {nearest}, {found},
{lexical},
candidates AS (SELECT chunk_key FROM nearest UNION SELECT chunk_key FROM lexical),
{scored}
"""
_SCORED = """
scored AS (
  SELECT {shown}, chunk_key,
    greatest(0, {similarity})::float8 AS vector,
    greatest(word_similarity({query}, text), word_similarity({query}, name))::float8 AS words,
    {recency} AS recency
  FROM {view} JOIN candidates USING (chunk_key) WHERE {where}),
best AS (
  SELECT DISTINCT ON (node_id) *,
    ({vector_weight}::float8 * vector + {text_weight}::float8 * words) * recency AS score
  FROM scored ORDER BY node_id, score DESC, chunk_key)
SELECT found.n AS found, found.missed, best.*
FROM found LEFT JOIN (SELECT * FROM best ORDER BY score DESC, node_id LIMIT {top_k}) best ON true
ORDER BY best.score DESC, best.node_id
"""
_VECTOR = """
WITH {nearest}, {found}
SELECT found.n AS found, found.missed, chunk.*, greatest(0, {similarity})::float8 AS vector
FROM found LEFT JOIN (
  SELECT {shown}, distance, {recency} AS recency
  FROM {view} JOIN nearest USING (chunk_key)) chunk ON true
ORDER BY chunk.distance, chunk.node_id
"""
_KEYS = """
WITH {nearest}, {found}
SELECT nearest.chunk_key, greatest(0, {similarity})::float8 AS similarity, found.missed
FROM found LEFT JOIN nearest ON true ORDER BY nearest.distance, nearest.chunk_key
"""
# What another store found. It may know less of a chunk than Postgres does, or know it later, so
# what may be seen is asked here again.
_GIVEN = """
found AS (SELECT {found}::int AS n, false AS missed),
candidates AS (
  SELECT * FROM unnest({keys}::text[], {near}::float8[]) AS c (chunk_key, similarity))
"""
_SHOWN_ROWS = """
chunk AS (
  SELECT {shown}, greatest(0, similarity)::float8 AS vector, {recency} AS recency
  FROM {view} JOIN candidates USING (chunk_key) WHERE {where})
SELECT found.n AS found, found.missed, chunk.* FROM found LEFT JOIN chunk ON true
ORDER BY chunk.vector DESC, chunk.node_id
"""


@dataclass
class Statement:
    """SQL with its parameters."""

    sql: str
    values: list[Any]


@dataclass
class _Builder:
    """Collects parameters; ``add`` gives the placeholder of one."""

    values: list[Any] = field(default_factory=list[Any])

    def add(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def where(self, realms: Sequence[str] | None, filters: Filters) -> str:
        tests: list[str] = []
        if realms is not None:
            tests.append(f"realm = ANY({self.add(list(realms))}::text[])")
        if filters.labels:
            tests.append(f"labels && {self.add(list(filters.labels))}::text[]")
        if filters.sources:
            names, ids = self.add(list(filters.sources)), self.add(source_ids(filters.sources))
            tests.append(
                f"source_id = ANY({ids}::uuid[] || ARRAY("
                f"SELECT s.id FROM sources s WHERE s.name = ANY({names}::text[])))"
            )
        if filters.after:
            tests.append(f"seen_at >= {self.add(filters.after)}")
        if filters.before:
            tests.append(f"seen_at < {self.add(filters.before)}")
        if filters.exclude:
            tests.append(f"NOT (properties @> ANY({self.add(_pairs(filters))}::jsonb[]))")
        return " AND ".join(tests) or "true"


def hybrid_statement(
    space: Space, vector: Any, realms: Sequence[str] | None, query: HybridQuery, limit: int
) -> Statement:
    """One statement: vector candidates ∪ word candidates, both scores for each, best per node.

    Args:
        space: whose table.
        vector: the query's vector, shape (dim,).
        realms: realms that may be seen; None = all.
        query: the question with its weights and filters.
        limit: candidates of each side.
    """
    build = _Builder()
    words = terms(query.query)
    view, where = f"live.{space.table_name}", build.where(realms, query.filters)
    at = f"{build.add(vector_parameter(space, vector))}::{space.storage}({space.dim})"
    distance, similarity = _measures(space, at)
    parts = {"view": view, "where": where, "distance": distance, "limit": limit}
    lexical = _LEXICAL.format(arms=_arms(build, words, view, where), limit=limit)
    scored = _SCORED.format(
        **parts,
        similarity=similarity.format(d=distance),
        shown=_SHOWN,
        recency=_RECENCY,
        query=f"{build.add(comparable(query.query, words))}::text",
        vector_weight=build.add(query.vector_weight),
        text_weight=build.add(query.text_weight),
        top_k=query.top_k,
    )
    sql = _HYBRID.format(
        nearest=_NEAREST.format(**parts),
        found=_FOUND.format(**parts),
        lexical=lexical,
        scored=scored,
    )
    return Statement(sql, build.values)


def vector_statement(
    space: Space, vector: Any, realms: Sequence[str] | None, filters: Filters, limit: int
) -> Statement:
    """The ``limit`` chunks nearest to ``vector``, nearest first."""
    build = _Builder()
    parts, similarity = _nearest_parts(build, space, vector, realms, filters, limit)
    sql = _VECTOR.format(
        **parts,
        similarity=similarity.format(d="chunk.distance"),
        nearest=_NEAREST.format(**parts),
        found=_FOUND.format(**parts),
        shown=_SHOWN,
        recency=_RECENCY,
    )
    return Statement(sql, build.values)


def _nearest_parts(
    build: _Builder,
    space: Space,
    vector: Any,
    realms: Sequence[str] | None,
    filters: Filters,
    limit: int,
) -> tuple[dict[str, Any], str]:
    """What ``_NEAREST`` and ``_FOUND`` are filled with, and the similarity of a distance."""
    where = build.where(realms, filters)
    at = f"{build.add(vector_parameter(space, vector))}::{space.storage}({space.dim})"
    distance, similarity = _measures(space, at)
    view = f"live.{space.table_name}"
    return {"view": view, "where": where, "distance": distance, "limit": limit}, similarity


def nearest_statement(
    space: Space, vector: Any, realms: Sequence[str] | None, filters: Filters, limit: int
) -> Statement:
    """As ``vector_statement``, but keys and similarities alone."""
    build = _Builder()
    parts, similarity = _nearest_parts(build, space, vector, realms, filters, limit)
    sql = _KEYS.format(
        nearest=_NEAREST.format(**parts),
        found=_FOUND.format(**parts),
        similarity=similarity.format(d="nearest.distance"),
    )
    return Statement(sql, build.values)


def words_statement(
    space: Space, realms: Sequence[str] | None, query: HybridQuery, limit: int
) -> Statement:
    """Keys of the ``limit`` chunks that the words of a query speak for most."""
    words = terms(query.query)
    if not words:
        return Statement("SELECT ''::text AS chunk_key WHERE false", [])
    build = _Builder()
    view, where = f"live.{space.table_name}", build.where(realms, query.filters)
    arms = _arms(build, words, view, where)
    return Statement(f"WITH {_LEXICAL.format(arms=arms, limit=limit)} TABLE lexical", build.values)


def scored_statement(
    space: Space,
    realms: Sequence[str] | None,
    query: HybridQuery,
    near: Mapping[str, float],
    found: int,
) -> Statement:
    """The hybrid score of chunks whose similarity is known, best per node.

    Args:
        space: whose table; its vectors lie elsewhere.
        realms: realms that may be seen; None = all.
        query: the question with its weights and filters.
        near: similarity by chunk key.
        found: how many of them the search by vector brought.
    """
    build = _Builder()
    words = terms(query.query)
    where = build.where(realms, query.filters)
    sql = f"WITH {_given(build, near, found)}, {_SCORED}".format(
        view=f"live.{space.table_name}",
        where=where,
        similarity="candidates.similarity",
        shown=_SHOWN,
        recency=_RECENCY,
        query=f"{build.add(comparable(query.query, words))}::text",
        vector_weight=build.add(query.vector_weight),
        text_weight=build.add(query.text_weight),
        top_k=query.top_k,
    )
    return Statement(sql, build.values)


def shown_statement(
    space: Space,
    realms: Sequence[str] | None,
    filters: Filters,
    near: Mapping[str, float],
    found: int,
) -> Statement:
    """What ``vector_statement`` gives, of chunks whose similarity is known."""
    build = _Builder()
    where = build.where(realms, filters)
    sql = f"WITH {_given(build, near, found)}, {_SHOWN_ROWS}".format(
        view=f"live.{space.table_name}", where=where, shown=_SHOWN, recency=_RECENCY
    )
    return Statement(sql, build.values)


def planner_settings(
    settings: Settings, version: tuple[int, int], limit: int, *, exact: bool
) -> Statement:
    """Settings for the rest of the transaction.

    Args:
        settings: the width of an index walk.
        version: pgvector's; from 0.8 on a walk goes on until enough rows passed the filters,
            before it we can only make it four times as wide.
        limit: candidates wanted.
        exact: compare with every row that passes the filters, without the index.
    """
    wide = settings.hnsw_ef_search
    pairs = {
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        # Planned for these very filters and words; a shared plan knows neither.
        "plan_cache_mode": "force_custom_plan",
        "jit": "off",
        # Row estimates for words are guesses, and a wrong one would read the whole table.
        "enable_seqscan": "on" if exact else "off",
        "enable_indexscan": "off" if exact else "on",
        "pg_trgm.word_similarity_threshold": "0.6",
    }
    if version >= (0, 8):
        pairs["hnsw.iterative_scan"] = "relaxed_order"
    else:
        wide = max(wide, 4 * limit)
    pairs["hnsw.ef_search"] = str(min(1000, wide))
    calls = ", ".join(f"set_config(${2 * i + 1}, ${2 * i + 2}, true)" for i in range(len(pairs)))
    return Statement(f"SELECT {calls}", [text for pair in pairs.items() for text in pair])


def vector_parameter(space: Space, vector: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """``vector`` as a query parameter of the space's column type."""
    return HalfVector(vector.astype(np.float16)) if space.storage == "halfvec" else Vector(vector)


def _given(build: _Builder, near: Mapping[str, float], found: int) -> str:
    return _GIVEN.format(
        found=build.add(found), keys=build.add([*near]), near=build.add([*near.values()])
    )


def _measures(space: Space, vector: str) -> tuple[str, str]:
    """The distance of a row to ``vector``, and the form of its similarity, 1 at most."""
    sql = DISTANCES[space.distance]
    return f"embedding {sql.operator} {vector}", sql.similarity


def _arms(build: _Builder, words: list[str], view: str, where: str) -> str:
    if not words:
        return "SELECT ''::text AS chunk_key, 0.0 AS weight WHERE false"
    patterns = [like_pattern(word) for word in words]
    shared = {"view": view, "where": where}
    arms = [
        _BY_TERM.format(**shared, patterns=build.add(patterns), rows=TERM_ROWS),
        _BY_NAME.format(**shared, words=build.add(words), rows=NAME_ROWS),
    ]
    if len(words) > 1:
        tests = (f"text ILIKE {build.add(pattern)}" for pattern in patterns[:ALL_TERMS])
        arms.append(_BY_ALL.format(**shared, together=" AND ".join(tests), rows=TERM_ROWS))
    return " UNION ALL ".join(arms)


def source_ids(texts: Sequence[str]) -> list[Any]:
    """The ids (``src_…``) among names and ids of sources."""
    ids: list[Any] = []
    for text in texts:
        try:
            ids.append(decode("src", text))
        except NotFoundError:
            continue  # a name
    return ids


def _pairs(filters: Filters) -> list[dict[str, Any]]:
    return [
        {key: value}
        for key, values in filters.exclude.items()
        for value in (values if isinstance(values, list) else [values])
    ]
