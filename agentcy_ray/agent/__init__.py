"""Floor 4: the governed tool call and the agent loop."""
