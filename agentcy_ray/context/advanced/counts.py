"""Counts and names: how much there is, and what may be asked for."""

from __future__ import annotations

from collections import Counter

from agentcy_ray.context.advanced.sql import ENDS, among, counts, over, texts
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.advanced.values import labels_of
from agentcy_ray.context.basic.facts import SAMPLED
from agentcy_ray.context.basic.layout import EDGE_RESERVED, NODE_RESERVED
from agentcy_ray.context.engine import GraphSchema, GraphStats, LabelSchema, Scope
from agentcy_ray.context.languages.current import RELATIONS, Table, newest
from agentcy_ray.context.languages.facts import MARK
from agentcy_ray.context.languages.planned import to_sql

_NODES = 'SELECT label_set, realm, count(*) AS "count" FROM _nodes GROUP BY label_set, realm'
_EDGES = 'SELECT "type", count(*) AS "count" FROM _edges GROUP BY "type"'
# First the entities to look at, by columns that are cheap to go through, then their facts. A fact
# is `path \\x1e value`; a dot in the path means that it lies inside of another.
_SAMPLE = """
_sample AS (
  SELECT "name", id FROM (
    SELECT "name", id, row_number() OVER (PARTITION BY "name" ORDER BY id) AS place
    FROM (SELECT {name} AS "name", id FROM _live)
  ) WHERE place <= {sampled}
)
"""
_KEYS = """
SELECT DISTINCT "name", "key" FROM (
  SELECT "name", split_part(fact, chr(30), 1) AS "key" FROM (
    SELECT s."name" AS "name", unnest(string_to_array(e.facts, chr(31))) AS fact
    FROM _sample s JOIN {relation} e ON e.id = s.id
  ) WHERE fact <> ''
) WHERE strpos("key", '.') = 0
"""
_LABELS = "unnest(string_to_array(trim(both chr(31) from label_set), chr(31)))"


async def stats(store: Store, scope: Scope) -> GraphStats:
    """Counts of live entities; an edge counts when both its ends are in the scope too."""
    nodes = over(
        scope, {"context_nodes": []}, narrow={"context_nodes": ("id", "realm", "label_set")}
    )
    edges = over(scope, {"context_edges": []}, narrow={"context_edges": (*ENDS, "type")})
    labels: Counter[str] = Counter()
    realms: Counter[str] = Counter()
    rows = await store.read(scope.org_id, f"WITH {nodes} {_NODES}", counts("label_set", "realm"))
    for row in rows.to_pylist():
        realms[row["realm"]] += row["count"]
        for label in labels_of(row["label_set"]):
            labels[label] += row["count"]
    rows = await store.read(scope.org_id, f"WITH {edges} {_EDGES}", counts("type"))
    types = {row["type"]: row["count"] for row in rows.to_pylist()}
    return GraphStats(
        nodes=realms.total(),
        edges=sum(types.values()),
        labels=dict(labels.most_common()),
        types=dict(Counter(types).most_common()),
        realms=dict(realms.most_common()),
    )


async def schema(store: Store, scope: Scope) -> GraphSchema:
    """Labels and types with their counts, and the property names of a sample of each."""
    known = await stats(store, scope)
    labels = await _keys(store, scope, "context_nodes", ("label_set", _LABELS), NODE_RESERVED)
    types = await _keys(store, scope, "context_edges", ("type", '"type"'), EDGE_RESERVED)
    return GraphSchema(
        labels=tuple(
            LabelSchema(name=name, count=count, properties=tuple(sorted(labels.get(name, ()))))
            for name, count in known.labels.items()
        ),
        types=tuple(
            LabelSchema(name=name, count=count, properties=tuple(sorted(types.get(name, ()))))
            for name, count in known.types.items()
        ),
    )


async def _keys(
    store: Store, scope: Scope, table: Table, name: tuple[str, str], reserved: frozenset[str]
) -> dict[str, set[str]]:
    """Property names by label or type, each as a query writes it.

    Args:
        store: where to read.
        scope: what to read.
        table: of nodes or edges.
        name: the column that holds the labels or the type, and what makes single names of it.
        reserved: names that a query writes with an underscore.
    """
    live = to_sql(newest(table, scope, columns=("id", name[0])))
    sample = _SAMPLE.format(name=name[1], sampled=SAMPLED)
    entities = over(scope, {table: [among("id", "SELECT id FROM _sample")]})
    keys = _KEYS.format(relation=RELATIONS[table])
    sql = f"WITH _live AS ({live}), {sample}, {entities} {keys}"
    found: dict[str, set[str]] = {}
    for row in (await store.read(scope.org_id, sql, texts("name", "key"))).to_pylist():
        key = row["key"].replace(MARK, ".")
        if key:
            taken = key.rstrip("_") in reserved
            found.setdefault(row["name"], set()).add(f"{key}_" if taken else key)
    return found
