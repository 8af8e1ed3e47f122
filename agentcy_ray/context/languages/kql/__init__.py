"""KQL: parsed here, planned into the SQL of the Advanced engine, stage by stage."""

from agentcy_ray.context.languages.kql.planning import plan

__all__ = ["plan"]
