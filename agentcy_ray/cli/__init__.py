"""Floor 8: the agentcy command."""
