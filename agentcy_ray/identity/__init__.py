"""Floor 3: who is asking: log-in, tokens, sessions."""
