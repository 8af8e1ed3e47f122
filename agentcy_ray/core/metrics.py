"""Every metric of the platform, in one table. No org, user, source or id labels.

A process has one ``Metrics``, handed down like its settings; what a process does not do has no
figures there. Label values come from closed sets: a name that a caller sent is never one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentcy_ray.core.meters import (
    SECONDS,
    Child,
    Counter,
    Family,
    Gauge,
    Histogram,
    Reading,
    read,
    render,
)

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TURN_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class Metrics:
    """The families, each under the name that its code uses."""

    def __init__(self) -> None:
        self.families: list[Family[Child]] = []
        self._samples: list[tuple[Gauge, Callable[[], float]]] = []
        count, gauge, times = self._counter, self._gauge, self._times
        self.http_requests = count(
            "agentcy_http_requests_total", "Requests answered.", "method", "route", "status"
        )
        self.http_seconds = times(
            "agentcy_http_request_seconds", "Time to the end of the answer.",
            "method", "route", "status",
        )  # fmt: skip
        self.sse_streams = gauge("agentcy_sse_streams", "Open event streams.").of()
        self.turn_seconds = times(
            "agentcy_turn_seconds", "Time of a model's turn.", "provider", "model",
            bounds=TURN_SECONDS,
        )  # fmt: skip
        self.first_token_seconds = times(
            "agentcy_first_token_seconds", "Time to a turn's first token.", "provider", "model",
            bounds=TURN_SECONDS,
        )  # fmt: skip
        self.llm_tokens = count(
            "agentcy_llm_tokens_total", "Tokens in and out.", "provider", "model", "direction"
        )
        self.llm_cost = count("agentcy_llm_cost_usd_total", "Cost of models.", "provider", "model")
        self.tool_calls = count(
            "agentcy_tool_calls_total", "Tool calls that ended.", "connector", "effect", "decision"
        )
        self.tool_seconds = times(
            "agentcy_tool_call_seconds", "Time of a tool call by stage.", "connector", "stage"
        )
        self.tool_batch_size = self._histogram(
            "agentcy_tool_batch_size", "Calls that travelled to a host together.", (), BATCH_SIZES
        ).of()
        self.session_host_in_flight = gauge(
            "agentcy_session_host_in_flight", "Calls on session hosts."
        ).of()
        self.policy_seconds = times(
            "agentcy_policy_seconds", "Time of a policy decision.", "decision"
        )
        self.policy_cache = count(
            "agentcy_policy_cache_total", "Decisions by where they came from.", "result"
        )
        self.approvals_pending = gauge("agentcy_approvals_pending", "Approvals that wait.")
        self.approval_wakeup = times(
            "agentcy_approval_wakeup_seconds", "From an approval's decision to its call going on."
        ).of()
        self.runs_active = gauge("agentcy_runs_active", "Runs that have not ended.", "kind")
        self.run_takeovers = count(
            "agentcy_run_takeovers_total", "Runs taken over from a lost executor.", "kind"
        )
        self.ingest_records = count(
            "agentcy_ingest_records_total", "Records of syncs.", "connector", "outcome"
        )
        self.publish_seconds = times(
            "agentcy_publish_seconds", "Time of publishing a package.", "connector", "outcome",
            bounds=TURN_SECONDS,
        )  # fmt: skip
        self.sync_lag = gauge(
            "agentcy_sync_lag_seconds", "Age of the oldest due sync.", "connector", "outcome"
        )
        self.kyma_slices = count("agentcy_kyma_slices_total", "Slices sent to kyma.", "outcome")
        self.kyma_bytes = count("agentcy_kyma_bytes_total", "Bytes sent to kyma.", "outcome")
        self.kyma_rows = count("agentcy_kyma_rows_total", "Rows sent to kyma.", "outcome")
        self.kyma_lag = times(
            "agentcy_kyma_lag_seconds", "From a batch handed over to a slice of it acknowledged.",
            bounds=TURN_SECONDS,
        ).of()  # fmt: skip
        self.embed_seconds = times(
            "agentcy_embed_batch_seconds", "Time of embedding a batch.", "embedder"
        )
        self.embed_items = count("agentcy_embed_items_total", "Texts embedded.", "embedder")
        self.embed_tokens = count(
            "agentcy_embed_tokens_total", "Tokens of texts embedded.", "embedder"
        )
        self.budget_reservations = count(
            "agentcy_budget_reservations_total", "Reservations of budgets by what became of them.",
            "outcome",
        )  # fmt: skip
        self.queue_depth = gauge("agentcy_queue_depth", "Jobs that wait.", "kind")
        self.jobs = count("agentcy_jobs_total", "Jobs that ended.", "kind", "outcome")
        self.audit_commit = times(
            "agentcy_audit_commit_seconds", "Time of a group commit of audit entries."
        ).of()
        self.db_pool_in_use = gauge("agentcy_db_pool_in_use", "Postgres connections in use.").of()
        self.rate_limited = count("agentcy_rate_limited_total", "Requests refused by a limit.").of()

    def sample(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Set ``gauge`` to ``value()`` whenever the figures are read."""
        self._samples.append((gauge, value))

    def read(self) -> Reading:
        """The figures of this process."""
        for gauge, value in self._samples:
            gauge.set(value())
        return read(self.families)

    def text(self, reading: Reading) -> str:
        """``reading`` in Prometheus' text form."""
        return render(self.families, reading)

    def _counter(self, name: str, meaning: str, *labels: str) -> Family[Counter]:
        family = Family(name, meaning, "counter", labels, Counter)
        self.families.append(family)  # pyright: ignore[reportArgumentType]
        return family

    def _gauge(self, name: str, meaning: str, *labels: str) -> Family[Gauge]:
        family = Family(name, meaning, "gauge", labels, Gauge)
        self.families.append(family)  # pyright: ignore[reportArgumentType]
        return family

    def _times(
        self, name: str, meaning: str, *labels: str, bounds: Sequence[float] = SECONDS
    ) -> Family[Histogram]:
        return self._histogram(name, meaning, labels, bounds)

    def _histogram(
        self, name: str, meaning: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> Family[Histogram]:
        family = Family(name, meaning, "histogram", labels, lambda: Histogram(bounds), bounds)
        self.families.append(family)  # pyright: ignore[reportArgumentType]
        return family
