"""The Basic engine: a Neo4j-compatible server over Bolt, embedded or given by NEO4J_URI."""

from agentcy_ray.context.basic.engine import BasicEngine

__all__ = ["BasicEngine"]
