"""The Advanced engine: kyma, given by KYMA_BASE_URL or embedded."""

from agentcy_ray.context.advanced.engine import AdvancedEngine

__all__ = ["AdvancedEngine"]
