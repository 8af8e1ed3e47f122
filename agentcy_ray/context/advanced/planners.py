"""The languages of the Advanced engine."""

from __future__ import annotations

from agentcy_ray.context.advanced.query import Planners
from agentcy_ray.context.languages import cypher, kql, sql

PLANNERS: Planners = {"cypher": cypher.plan, "kql": kql.plan, "sql": sql.plan}
