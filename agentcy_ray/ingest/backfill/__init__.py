"""Filling an embedding space from the packages, beside the publishes that write it already."""
