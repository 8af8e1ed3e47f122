"""What a process logs: a line is an object, and no secret is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from agentcy_ray.core.logs import set_up_logs
from agentcy_ray.core.settings import Settings

CANARY = "canary-of-a-local-variable"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def fail() -> None:
    token = CANARY  # noqa: F841 - what a traceback with local variables would show
    raise ValueError("no such thing")


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.requirement("SEC-03")
def test_a_traceback_shows_no_local_variable(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(Settings.load({"LOG_FORMAT": form}))
    try:
        fail()
    except ValueError:
        structlog.get_logger("here").exception("it failed", key="sk-" + "a" * 30)
    said = capsys.readouterr().out
    assert CANARY not in said
    assert "no such thing" in said
    assert "sk-aaa" not in said
    assert "in fail" in said  # the frames are there


def test_a_line_is_an_object_and_the_threshold_holds(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(Settings.load({"LOG_LEVEL": "warning"}))
    log = structlog.get_logger("here")
    log.info("unheard")
    log.warning("heard", count=3, who={"a": [1]}, what=object)
    [line] = capsys.readouterr().out.splitlines()
    read = json.loads(line)
    assert (read["event"], read["level"], read["count"], read["who"]) == (
        "heard", "warning", 3, {"a": [1]},
    )  # fmt: skip
    assert read["timestamp"].endswith("Z")
