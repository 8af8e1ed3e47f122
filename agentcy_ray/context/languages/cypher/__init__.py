"""Read-only Cypher: text → tree → scoped tree → text.

The parser is our own, a closed grammar: what it does not know it refuses. The parsers on PyPI
were tried and do not serve as a gate: `antlr4-cypher` 0.1.2 knows neither ``EXISTS {}`` nor
``UNION``, `graphglot` 0.14 rewrites ``:A&!B`` to ``:A:!B`` and knows no ``shortestPath``. No text
of the caller reaches the server: the tree is rendered anew, every string literal becomes a driver
parameter, comments and escapes end in the tokenizer. So the server cannot read a query other than
the one that was checked.

The same tree is planned as SQL (``plan``) for an engine that speaks no Cypher of its own.
"""

from agentcy_ray.context.languages.cypher.lowering import Dialect, ScopedQuery, scoped
from agentcy_ray.context.languages.cypher.plan import plan

__all__ = ["Dialect", "ScopedQuery", "plan", "scoped"]
