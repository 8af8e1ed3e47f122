"""SQL over the context: checked, scoped and typed here, run by the Advanced engine."""

from agentcy_ray.context.languages.sql.planning import plan

__all__ = ["plan"]
