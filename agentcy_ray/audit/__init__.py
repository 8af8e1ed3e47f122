"""Floor 3: the append-only audit log."""
