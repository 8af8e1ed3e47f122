"""Guards for tests, whose servers listen on loopback."""

from __future__ import annotations

from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.stores.egress import Egress, Guard, Resolver

LOOPBACK = ("127.0.0.0/8", "::1/128")


def loopback_guard(**settings: object) -> Guard:
    """A source's guard that lets loopback pass, as ``EGRESS_PRIVATE_CIDRS`` of an operator can."""
    return Egress(AccessSettings(egress_private_cidrs=LOOPBACK, **settings)).guard("tenant")


def strict_guard(resolver: Resolver | None = None, **settings: object) -> Guard:
    """A source's guard as it is by default."""
    return Egress(AccessSettings(**settings), resolver).guard("tenant")
