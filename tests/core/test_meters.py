"""Meters of a process: what they count, how readings add up, and their text form."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentcy_ray.core.meters import Reading
from agentcy_ray.core.metrics import Metrics

FORBIDDEN = {"org", "org_id", "user", "user_id", "source", "source_id", "id", "run_id"}


def parsed(metrics: Metrics, reading: Reading | None = None) -> dict[str, float]:
    """Samples by name and labels, as Prometheus' own parser reads them."""
    text = metrics.text(reading or metrics.read())
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_is_counted_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    metrics.tool_calls.of("git", "read", "allow").inc()
    metrics.tool_calls.of("git", "read", "allow").inc(2)
    metrics.sse_streams.inc()
    metrics.sse_streams.inc()
    metrics.sse_streams.dec()
    times = metrics.tool_seconds.of("git", "total")
    for secs in (0.0005, 0.0006, 99.0):
        times.observe(secs)
    found = parsed(metrics)
    labels = [("connector", "git"), ("decision", "allow"), ("effect", "read")]
    assert found[f"agentcy_tool_calls_total{labels}"] == 3
    assert found["agentcy_sse_streams[]"] == 1
    stage = [("connector", "git"), ("stage", "total")]
    bucket = "agentcy_tool_call_seconds_bucket"
    at = {le: found[f"{bucket}{sorted([*stage, ('le', le)])}"] for le in ("0.0005", "60.0", "+Inf")}
    assert at == {"0.0005": 1, "60.0": 2, "+Inf": 3}
    assert found[f"agentcy_tool_call_seconds_count{stage}"] == 3
    assert found[f"agentcy_tool_call_seconds_sum{stage}"] == pytest.approx(99.0011)


def test_readings_of_processes_add_up() -> None:
    metrics, total = Metrics(), Reading()
    metrics.tool_calls.of("git", "read", "allow").inc()
    metrics.tool_seconds.of("git", "gate").observe(0.01)
    metrics.db_pool_in_use.set(3)
    for _ in range(2):
        reading = metrics.read()
        total.add(reading.rising, reading.level)
    assert parsed(metrics, total) == {
        name: 2 * value for name, value in parsed(metrics).items()
    }  # fmt: skip


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.http_requests.of("GET", 'a"b\\c\nd', "200").inc()
    assert parsed(metrics)[
        "agentcy_http_requests_total"
        + str([("method", "GET"), ("route", 'a"b\\c\nd'), ("status", "200")])
    ] == 1  # fmt: skip
    with pytest.raises(ValueError, match="labels"):
        metrics.http_requests.of("GET")


@pytest.mark.requirement("OBS-03")
def test_no_metric_tells_whose_it_is() -> None:
    for family in Metrics().families:
        assert not FORBIDDEN & set(family.labels), family.name
        assert not any(label.endswith("_id") for label in family.labels), family.name
