"""Faults on demand, so that a client's handling of them is tested on the real process."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from agentcy_ray.devkyma.errors import EngineError


@dataclass(slots=True)
class Faults:
    """Counters count down with each request that they hit.

    ``ingest_lost_acks`` store the body and then answer 500. ``retry_after_s`` goes with each 429.
    ``flight_delay_ms`` is waited before each batch of ``do_get``; ``flight_down`` refuses calls.
    """

    ingest_429: int = 0
    ingest_500: int = 0
    ingest_lost_acks: int = 0
    query_429: int = 0
    query_500: int = 0
    retry_after_s: int = 1
    flight_delay_ms: int = 0
    flight_down: bool = False

    def set(self, values: dict[str, Any]) -> None:
        """Set some of the switches.

        Raises:
            EngineError: 400 for an unknown switch or a value of another kind.
        """
        kinds = {f.name: type(getattr(self, f.name)) for f in fields(self)}
        for name, value in values.items():
            if name not in kinds or type(value) is not kinds[name]:
                raise EngineError(400, "bad_request_body", f"no such switch: {name}={value!r}")
        for name, value in values.items():
            setattr(self, name, value)

    def shown(self) -> dict[str, Any]:
        """The switches as they stand."""
        return asdict(self)

    def before(self, route: str) -> None:
        """Refuse a request of ``ingest`` or ``query`` when a switch says so.

        Raises:
            EngineError: 429 or 500.
        """
        if self.take(f"{route}_429"):
            code = "rate_limited" if route == "ingest" else "too_many_requests"
            retry = {"Retry-After": str(self.retry_after_s)}
            raise EngineError(429, code, "too many requests", retry)
        if self.take(f"{route}_500"):
            code = "ingest_failed" if route == "ingest" else "query_execution_error"
            raise EngineError(500, code, "failed on demand")

    def take(self, name: str) -> bool:
        """Whether a counter hits this request; it then counts down."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0
