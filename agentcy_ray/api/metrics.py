"""What the API measures of itself, in Prometheus' text form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry per application; no org, user, source or id labels."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "agentcy_http_requests_total", "Requests answered.", ["method", "route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "agentcy_http_request_seconds", "Time to the end of the answer.",
            ["method", "route", "status"], registry=self.registry,
        )  # fmt: skip
        self.streams = Gauge("agentcy_sse_streams", "Open event streams.", registry=self.registry)
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (method, route, status)
        found = self._children.get(key)
        if found is None:  # finding a child by its labels costs more than counting with it
            labels = (method, route, str(status))
            found = (self._requests.labels(*labels), self._seconds.labels(*labels))
            self._children[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def text(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
