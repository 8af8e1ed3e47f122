"""What ``agentcy embed`` asks for, shows and exits with."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from agentcy_ray.cli.embed import bounds, show_swap
from agentcy_ray.cli.embed_view import describe_space, describe_swap, print_spaces
from agentcy_ray.core.errors import BadRequestError


def swap(status: str, **of: Any) -> dict[str, Any]:
    return {"swap": {"id": "swp_1", "model": "local:new", "status": status, **of}}


def space(status: str, note: str = "") -> dict[str, Any]:
    numbers = {"done": 1200, "total": 5000, "unit": "chunks", "phase": "checking", "note": note}
    return {
        "space": {
            "id": "spc_1", "embedder": "local:new", "dim": 4, "storage": "vector",
            "status": "building",
        },
        "backfill": {"status": status},
        "progress": {**numbers, "status": status},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "gate", "ends"),
    [
        ("cut_over", {}, 0),
        ("done", {}, 0),
        ("backfilling", {}, 0),
        ("ready", {"refused": []}, 0),
        ("ready", {"refused": ["its recall is low"]}, 1),
        ("failed", {}, 1),
        ("cancelled", {}, 1),
        ("rolled_back", {}, 1),
    ],
)
def test_a_command_that_did_not_change_the_model_says_so_by_its_exit(
    status: str, gate: dict[str, Any], ends: int, capsys: pytest.CaptureFixture[str]
):
    try:
        show_swap(swap(status, gate=gate), json=True)
        code = 0
    except typer.Exit as error:
        code = error.exit_code
    assert code == ends
    assert f'"status": "{status}"' in capsys.readouterr().out


@pytest.mark.parametrize("given", [(float("nan"), None), (None, float("inf"))])
def test_a_bound_that_is_no_number_is_refused_before_it_is_sent(given: tuple[Any, Any]):
    with pytest.raises(BadRequestError, match="--rate"):
        bounds(*given, None)
    assert bounds(0.5, 0.0, None) == {"share": 0.5, "max_chunks_per_s": 0.0}


def test_what_a_backfill_waits_for_is_shown_while_it_waits(capsys: pytest.CaptureFixture[str]):
    why = "quiet hours until 2026-11-24 06:00 UTC"
    describe_space(space("queued", why))
    print_spaces([space("queued", why)])
    describe_swap({**swap("backfilling"), "progress": {"done": 5, "unit": "chunks", "note": why}})
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("quiet hours until") == 3
    assert "queued: 1,200/5,000 chunks · quiet hours" in told
    describe_space(space("done"))
    assert "checking" not in capsys.readouterr().out
