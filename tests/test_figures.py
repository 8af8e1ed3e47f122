"""What the published figures report: each requirement of a benchmark, held against its file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def published(name: str, figure: str) -> dict[str, Any]:
    """A figure of the file of a benchmark that is there and makes it still."""
    code = (BENCHMARKS / f"{name}.py").read_text()
    named = f'"{figure}"' in code or re.search(rf'f"{figure.partition("_")[0]}_{{', code)
    assert named, f"benchmarks/{name}.py makes no {figure}"
    rows = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    found = [row for row in rows if row["figure"] == figure]
    assert len(found) == 1, f"{figure} is not published"
    row = found[0]
    assert row["value"] > 0
    assert row["n"] >= 1
    assert row["machine"], "a figure without its machine says nothing"
    return row


def beside_control(row: dict[str, Any], control: str) -> None:
    """That a figure stands beside a control of the same run."""
    assert control in row["control"]
    assert row["control_value"] > 0
    assert row["ratio"] == pytest.approx(row["value"] / row["control_value"], abs=0.01)


@pytest.mark.requirement("EMB-08")
def test_the_rate_of_embedding_is_reported_as_a_share_of_the_bare_model() -> None:
    row = published("backfill", "vs_bare_encode")
    assert row["unit"] == "texts/s"
    beside_control(row, "SentenceTransformer.encode")


@pytest.mark.requirement("ING-11")
def test_the_rate_of_a_sync_is_reported_beside_a_bare_bulk_load() -> None:
    row = published("ingest_publish", "publish_rate")
    assert row["unit"] == "rows/s"
    beside_control(row, "raw Bolt UNWIND")


@pytest.mark.requirement("APR-02")
@pytest.mark.parametrize("figure", ["approval_wake_ms", "approval_wake_p99_ms"])
def test_the_time_from_a_decision_to_the_resumed_loop_is_reported(figure: str) -> None:
    assert published("approval_wake", figure)["unit"] == "ms"


@pytest.mark.requirement("TOOL-09")
def test_calls_with_policy_audit_and_redaction_on_are_reported_and_over_ten_thousand() -> None:
    row = published("tool_calls", "gates_on_vs_off")
    assert row["unit"] == "results/min"
    assert row["value"] >= 10_000
    beside_control(row, "gates off")
