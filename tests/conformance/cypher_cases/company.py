"""The graph of the Cypher cases: a small company with every type of property."""

from __future__ import annotations

from uuid import UUID

from tests.conformance.graphs import Graph


def company(org: UUID) -> Graph:
    """Services that call each other, what they read and write, and who owns them."""
    graph = Graph(org)
    graph.node("web", "Service", "Critical", tier=1, language="ts", cost=12.5, public=True,
               tags=["web", "edge"])  # fmt: skip
    graph.node("cart", "Service", tier=1, language="go", cost=20.0, public=False,
               tags=["shop", "web"], settings={"retries": 3})  # fmt: skip
    graph.node("pay", "Service", "Critical", tier=1, language="go", cost=7.25)
    graph.node("ledger", "Service", tier=2, language="rust", public=False, tags=["money"])
    graph.node("mail", "Service", tier=3, language="ts", cost=7.25)
    graph.node("orders", "Bucket", realm="infrastructure", region="eu")
    graph.node("images", "Bucket", realm="infrastructure", region="us")
    graph.node("shop", "Team", realm="crm", founded=2015)
    graph.node("money", "Team", realm="crm", founded=2019)
    graph.node("ann", "Person", realm="crm", age=31)
    graph.node("bob", "Person", realm="crm", age=58)
    graph.node("cem", "Person", realm="crm", **{"id": "c3", "@type": "guest", "a.b": {"c": 1}})
    for src, dst, weight, later in (
        ("web", "cart", 3, False),
        ("web", "pay", 1, False),
        ("cart", "pay", 2, False),
        ("pay", "ledger", 5, False),
        ("cart", "mail", 1, True),
        ("ledger", "ledger", 1, True),
    ):
        graph.edge(src, "CALLS", dst, weight=weight, **{"async": later})
    graph.edge("cart", "WRITES", "orders")
    graph.edge("ledger", "WRITES", "orders")
    graph.edge("web", "READS", "images")
    graph.edge("mail", "READS", "orders")
    graph.edge("shop", "OWNS", "web", since=2016)
    graph.edge("shop", "OWNS", "cart", since=2017)
    graph.edge("money", "OWNS", "ledger", since=2020)
    graph.edge("ann", "MEMBER_OF", "shop")
    graph.edge("bob", "MEMBER_OF", "money")
    graph.edge("cem", "MEMBER_OF", "shop")
    graph.edge("ann", "KNOWS", "bob")
    return graph
