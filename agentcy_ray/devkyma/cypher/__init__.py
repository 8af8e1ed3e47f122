"""kyma's own Cypher: patterns with at least one relationship, lowered to joins and walks.

It is deliberately no more than kyma has; the product's Cypher is planned elsewhere, into SQL.
"""

from __future__ import annotations

from agentcy_ray.devkyma.cypher.lower import lower_cypher

__all__ = ["lower_cypher"]
