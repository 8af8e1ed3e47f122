"""Full-text search: every word of the query occurs in the name or in a text property.

Each row carries its texts, case-folded, in ``search_text``, as nodes of the Basic engine do in
``_text``; whether a word occurs is plain containment there and here.
"""

from __future__ import annotations

import asyncio

from agentcy_ray.context.advanced.layout import SEPARATOR
from agentcy_ray.context.advanced.reads import nodes_by_id
from agentcy_ray.context.advanced.sql import counts, listed, over, quoted, texts
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.advanced.values import labels_of
from agentcy_ray.context.basic.search import answer_of, words_of
from agentcy_ray.context.engine import Scope, SearchAnswer, SearchQuery

# Only ids come out of it: the other columns of all hits need not be sorted. The keys are columns
# before anything is sorted: an expression that occurs in two of them makes the engine lose track of
# the order, and refuse its own plan.
_PAGE = """
SELECT id FROM (
  SELECT *, CASE WHEN folded = {whole} THEN 0 WHEN starts_with(folded, {whole}) THEN 1
    WHEN strpos(folded, {whole}) > 0 THEN 2 ELSE 3 END AS place
  FROM (SELECT id, lower("name") AS folded FROM _nodes WHERE {condition})
) ORDER BY place, folded, id LIMIT {limit} OFFSET {offset}
"""
_GROUPS = """
SELECT label_set, source_id, "hour", count(*) AS "count" FROM (
  SELECT label_set, source_id, to_char(date_trunc('hour', last_seen), '%Y-%m-%dT%H') AS "hour"
  FROM _nodes WHERE {condition}
) GROUP BY label_set, source_id, "hour"
"""


async def search(store: Store, scope: Scope, query: SearchQuery) -> SearchAnswer:
    """One page of hits, best names first, with facets and histogram over all hits.

    Raises:
        InvalidError: fewer than two characters, too many words, or a page out of bounds.
    """
    words = words_of(query)
    conditions = [f"strpos(search_text, {quoted(word)}) > 0" for word in words]
    if query.labels:
        marked = (quoted(f"{SEPARATOR}{name}{SEPARATOR}") for name in query.labels)
        conditions.append(f"({' OR '.join(f'strpos(label_set, {m}) > 0' for m in marked)})")
    if query.sources:
        conditions.append(f"source_id IN ({listed(query.sources)})")
    condition = " AND ".join(conditions)
    nodes = over(scope, {"context_nodes": []}, search=True)
    page = _PAGE.format(
        condition=condition, whole=quoted(" ".join(words)),
        limit=query.limit, offset=query.offset,
    )  # fmt: skip
    groups, hits = await asyncio.gather(
        store.read(
            scope.org_id, f"WITH {nodes} {_GROUPS.format(condition=condition)}",
            counts("label_set", "source_id", "hour"),
        ),
        store.read(scope.org_id, f"WITH {nodes} {page}", texts("id")),
    )  # fmt: skip
    return answer_of(
        tuple(await nodes_by_id(store, scope, hits["id"].to_pylist())),
        [
            {
                "labels": labels_of(row["label_set"]),
                "source": row["source_id"],
                "hour": row["hour"],
                "count": row["count"],
            }
            for row in groups.to_pylist()
        ],
    )
