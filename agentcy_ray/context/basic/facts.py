"""Counts and names: how much there is, and what may be asked for."""

from __future__ import annotations

from collections import Counter

from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.basic.layout import EDGE_RESERVED, NODE_RESERVED, name_of
from agentcy_ray.context.basic.reads import scope_params, visible
from agentcy_ray.context.engine import GraphSchema, GraphStats, LabelSchema, Scope

SAMPLED = 500
"""Property names are those seen on this many entities of each label and type."""

_NODES = """
MATCH (n:Entity) WHERE {n}
RETURN n._labels AS labels, n.realm AS realm, count(*) AS count
"""
_EDGES = """
MATCH (n:Entity)-[r]->(m:Entity) WHERE {n} AND {r} AND {m}
RETURN type(r) AS type, count(*) AS count
"""
_NODE_KEYS = """
MATCH (n:{label}) WHERE {n} WITH n LIMIT $sampled
UNWIND keys(n) AS key RETURN DISTINCT key
"""
_EDGE_KEYS = """
MATCH (n:Entity)-[r:{type}]->(m:Entity) WHERE {n} AND {r} AND {m} WITH r LIMIT $sampled
UNWIND keys(r) AS key RETURN DISTINCT key
"""


async def stats(bolt: Bolt, scope: Scope) -> GraphStats:
    """Counts of live entities; an edge counts when both its ends are in the scope too."""
    params = scope_params(scope)
    conditions = {name: visible(name, scope) for name in "nrm"}
    labels: Counter[str] = Counter()
    realms: Counter[str] = Counter()
    for row in await bolt.read(_NODES.format(**conditions), params):
        realms[row["realm"]] += row["count"]
        for label in row["labels"]:
            labels[label] += row["count"]
    types = {
        row["type"]: row["count"] for row in await bolt.read(_EDGES.format(**conditions), params)
    }
    return GraphStats(
        nodes=realms.total(),
        edges=sum(types.values()),
        labels=dict(labels.most_common()),
        types=dict(Counter(types).most_common()),
        realms=dict(realms.most_common()),
    )


async def schema(bolt: Bolt, scope: Scope) -> GraphSchema:
    """Labels and types with their counts, and the property names of a sample of each."""
    counts = await stats(bolt, scope)
    params = scope_params(scope) | {"sampled": SAMPLED}
    conditions = {name: visible(name, scope) for name in "nrm"}

    async def keys(text: str, reserved: frozenset[str]) -> tuple[str, ...]:
        rows = await bolt.read(text, params)
        return tuple(sorted(row["key"] for row in rows if row["key"] not in reserved))

    labels = [
        LabelSchema(
            name=name,
            count=count,
            properties=await keys(
                _NODE_KEYS.format(label=name_of("label", name), **conditions), NODE_RESERVED
            ),
        )
        for name, count in counts.labels.items()
    ]
    types = [
        LabelSchema(
            name=name,
            count=count,
            properties=await keys(
                _EDGE_KEYS.format(type=name_of("type", name), **conditions), EDGE_RESERVED
            ),
        )
        for name, count in counts.types.items()
    ]
    return GraphSchema(labels=tuple(labels), types=tuple(types))
