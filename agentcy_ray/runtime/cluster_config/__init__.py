"""The one cluster config: its model, its checks, and how it is read."""

from agentcy_ray.runtime.cluster_config.load import load_cluster_config, read_cluster_config
from agentcy_ray.runtime.cluster_config.model import ClusterConfig
from agentcy_ray.runtime.cluster_config.parts import Bounds

__all__ = ["Bounds", "ClusterConfig", "load_cluster_config", "read_cluster_config"]
