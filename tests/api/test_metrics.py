"""``GET /metrics``: what Prometheus scrapes."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from agentcy_ray.core.metrics import Metrics
from agentcy_ray.stores.shared_metrics import SharedMetrics
from tests.api.platform import Platform

TABLE = {
    "agentcy_http_requests_total",
    "agentcy_http_request_seconds",
    "agentcy_sse_streams",
    "agentcy_turn_seconds",
    "agentcy_first_token_seconds",
    "agentcy_llm_tokens_total",
    "agentcy_llm_cost_usd_total",
    "agentcy_tool_calls_total",
    "agentcy_tool_call_seconds",
    "agentcy_tool_batch_size",
    "agentcy_policy_seconds",
    "agentcy_policy_cache_total",
    "agentcy_approvals_pending",
    "agentcy_approval_wakeup_seconds",
    "agentcy_runs_active",
    "agentcy_run_takeovers_total",
    "agentcy_ingest_records_total",
    "agentcy_publish_seconds",
    "agentcy_sync_lag_seconds",
    "agentcy_kyma_slices_total",
    "agentcy_kyma_bytes_total",
    "agentcy_embed_batch_seconds",
    "agentcy_embed_items_total",
    "agentcy_queue_depth",
    "agentcy_jobs_total",
    "agentcy_audit_commit_seconds",
    "agentcy_db_pool_in_use",
    "agentcy_rate_limited_total",
    "agentcy_session_host_in_flight",
}


async def scrape(platform: Platform, **how: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=platform.url, timeout=60) as client:
        return await client.get("/metrics", **how)


async def figures(platform: Platform) -> dict[str, float]:
    answer = await scrape(platform)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_every_metric_of_the_table_is_served(platform: Platform) -> None:
    lines = (await scrape(platform)).text.splitlines()
    shown = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert shown >= TABLE


async def test_a_direct_call_shows_in_the_metrics_of_the_path(platform: Platform) -> None:
    owner = await platform.as_("owner")
    conversation = await platform.conversation()
    path = f"/chat/conversations/{conversation}/tool-calls"
    labels = [("connector", "rag"), ("decision", "allow"), ("effect", "read")]
    counted = f"agentcy_tool_calls_total{labels}"
    before = (await figures(platform)).get(counted, 0)
    body = {"connector": "rag", "tool": "search", "args": {"query": "anything"}}
    assert (await owner.post(path, json=body)).status_code == 200
    after = await figures(platform)
    assert after[counted] == before + 1
    for stage in ("gate", "policy", "dispatch", "audit", "total"):
        stages = [("connector", "rag"), ("stage", stage)]
        assert after[f"agentcy_tool_call_seconds_count{stages}"] >= 1
    route = "/api/v1/chat/conversations/{conversation_id}/tool-calls"
    assert after[
        "agentcy_http_requests_total"
        + str([("method", "POST"), ("route", route), ("status", "200")])
    ] >= 1  # fmt: skip


async def test_what_another_process_counted_is_among_the_figures(platform: Platform) -> None:
    metrics = Metrics()
    metrics.tool_calls.of("git", "write", "approved").inc(3)
    await SharedMetrics(platform.services.redis, metrics).hand_in()
    labels = [("connector", "git"), ("decision", "approved"), ("effect", "write")]
    assert (await figures(platform))[f"agentcy_tool_calls_total{labels}"] == 3


async def test_with_a_token_set_only_its_bearer_scrapes(platform: Platform) -> None:
    state, settings = platform.app.state, platform.settings
    state.settings = settings.model_copy(update={"metrics_token": SecretStr("scrape-me-please")})
    try:
        assert (await scrape(platform)).status_code == 401
        for bearer, status in (("scrape-me", 401), ("scrape-me-please", 200)):
            answer = await scrape(platform, headers={"authorization": f"Bearer {bearer}"})
            assert answer.status_code == status
    finally:
        state.settings = settings
