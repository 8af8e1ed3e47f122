"""Identity providers that are processes of their own, written by others."""
