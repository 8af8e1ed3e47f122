"""Git repositories: history, branches, tags and files; a folder on the server or a URL."""

from agentcy_ray.connectors.git.connector import GitConnector

__all__ = ["GitConnector"]
