# ruff: noqa: E501  # a query is easier to read in one piece
"""make-graph with graph-match."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (a)-[e]->(b) where a.name has 'core' project a.name, e.type, b.name "
        "| sort by b_name asc",
        (
            ("Core team", "OWNS", "Billing worker"),
            ("Core team", "OWNS", "Checkout API"),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (a)-[e*1..3]->(b) where a.labels == 'Team' project a.name, n = array_length(e), t = map(e, type), b.name "
        "| sort by n asc, b_name asc",
        (
            ("Core team", 1, ["OWNS"], "Billing worker"),
            ("Core team", 1, ["OWNS"], "Checkout API"),
            ("Core team", 2, ["OWNS", "CALLS"], "Billing worker"),
            ("Core team", 2, ["OWNS", "READS"], "orders-db"),
            ("Core team", 2, ["OWNS", "READS"], "orders-db"),
            ("Core team", 3, ["OWNS", "CALLS", "READS"], "orders-db"),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (t)-[e*1..2]->(x) where t.labels == 'Team' and all(e, type != 'READS') project x.name "
        "| sort by x_name asc",
        (
            ("Billing worker",),
            ("Billing worker",),
            ("Checkout API",),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (s)<-[o1]-(t)-[o2]->(u) where s.name < u.name project s.name, t.name, u.name "
        "| sort by t_name asc",
        (
            ("Billing worker", "Checkout API", "orders-db"),
            ("Billing worker", "Core team", "Checkout API"),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (a)-[e]-(b) where a.name == 'orders-db' project b.name "
        "| sort by b_name asc",
        (
            ("Billing worker",),
            ("Checkout API",),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (a)-[e1]->(b), (a)-[e2]->(c) where a.labels == 'Service' and b.name < c.name project a.name, b.name, c.name",
        (("Checkout API", "Billing worker", "orders-db"),),
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match cycles=none (a)-[e1]->(b)-[e2]->(c) project a.name, c.name "
        "| distinct a_name, c_name | sort by a_name asc, c_name asc",
        (
            ("Checkout API", "orders-db"),
            ("Core team", "Billing worker"),
            ("Core team", "orders-db"),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst "
        "| graph-match (x)-[e1]->(y)-[e2]->(z) project x.node_id, z.node_id | count",
        ((4,),),
    ),
    Case(
        "edges | where type == 'READS' | make-graph src --> dst with (nodes "
        "| where labels == 'Service') on id "
        "| graph-match (a)-[e]->(b) project a.name, b.name, e.props.weight "
        "| sort by a_name asc",
        (
            ("Billing worker", None, 2),
            ("Checkout API", None, 5),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (a)-[e]->(b) where e.props.weight > 2 and b.props.tier == 1 project a.name, b.props.engine",
        (("Checkout API", "postgres"),),
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (a)-->(b)-->(c) where a.labels == 'Team' project c.name "
        "| summarize count() by c_name | sort by c_name asc",
        (
            ("Billing worker", 1),
            ("orders-db", 2),
        ),
        ordered=True,
    ),
    Case(
        "edges | make-graph src --> dst with nodes on id "
        "| graph-match (n) where n.realm == 'crm' project n.name",
        (("Core team",),),
    ),
)
