"""Changing an organisation's embedding model while search answers."""
