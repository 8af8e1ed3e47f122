"""The policies that come with the product."""

from __future__ import annotations

from importlib.resources import files


def starters() -> dict[str, str]:
    """Name and text of the policies that every organisation begins with."""
    bundles = files("agentcy_ray.policy.bundles").iterdir()
    return {b.name: b.read_text() for b in bundles if b.name.endswith(".rego")}
