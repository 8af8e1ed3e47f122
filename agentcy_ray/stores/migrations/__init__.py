"""Numbered SQL files, run in order by ``stores/migrate.py``."""
