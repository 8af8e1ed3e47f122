"""Text of models, tools and sources is printed as it is, and nothing in it is obeyed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentcy_ray.cli.chat import show
from agentcy_ray.cli.client import Client
from agentcy_ray.cli.event_stream import ServerEvent
from agentcy_ray.cli.progress import SyncView
from agentcy_ray.core.settings import Settings

ODD = "a [/red] [bold]word[/] \x1b]0;mine\x07 list[int]"
SHOWN = "a [/red] [bold]word[/] ]0;mine list[int]"


async def test_a_run_with_odd_text_is_shown_to_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: list[tuple[str, dict[str, Any]]] = [
        ("content_delta", {"delta": ODD}),
        ("tool_call_start", {"name": "files_read", "tool": "[/read]"}),
        ("tool_result", {"status": "failed", "error": {"message": ODD}}),
        ("warning", {"message": ODD}),
        ("citation", {"key": "1", "title": "[/title]", "url": None}),
        ("message_end", {"finish_reason": "end_turn"}),
    ]

    async def events() -> AsyncIterator[ServerEvent]:
        for seq, (kind, data) in enumerate(said):
            yield ServerEvent(seq, kind, data)

    async with Client(Settings.load({}, agentcy_url="http://127.0.0.1:1")) as client:
        assert len(await show(client, events(), yes=False, quiet=False)) == len(said)
    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 3
    assert "[/read]" in printed
    assert "[1] [/title]" in printed


def test_a_sync_that_failed_with_odd_text_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with SyncView(quiet=False) as view:
        view.update({"status": "failed", "error": {"message": "no [/branch] there"}})
    assert "no [/branch] there" in capsys.readouterr().err
