"""Files: a folder of this server or a prefix of the object store, with the text in them."""

from agentcy_ray.connectors.files.connector import FilesConnector

__all__ = ["FilesConnector"]
