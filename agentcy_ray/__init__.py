"""agentcy-ray: a governed agent platform over a company's own knowledge, on Ray."""

__version__ = "0.1.0"
