"""Waiting for a server: what is waited out, what is not, and when it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from agentcy_ray.cli.output import ServerUnreachableError
from agentcy_ray.cli.patience import until
from agentcy_ray.core.errors import BackendError, NotFoundError

AWAY = ServerUnreachableError("no answer")
Answer = Exception | str | None


def server(*answers: Answer) -> Callable[[], Awaitable[str | None]]:
    """Gives these answers in turn, the last one for ever."""
    left = list(answers)

    async def look() -> str | None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return look


async def test_an_outage_in_between_is_waited_out() -> None:
    look = server(None, AWAY, AWAY, None, "there")
    assert await until(look, limit_secs=30, every_secs=0) == "there"


async def test_an_outage_without_an_end_is_told_as_what_it_is() -> None:
    with pytest.raises(ServerUnreachableError):
        await until(server(None, AWAY), outage_secs=0.02, every_secs=0)
    with pytest.raises(ServerUnreachableError):
        await until(server(AWAY), limit_secs=0, every_secs=0)


async def test_a_server_that_answers_and_has_it_not_ends_by_the_limit() -> None:
    with pytest.raises(TimeoutError, match=r"not within 0\.02 s"):
        await until(server(AWAY, None), limit_secs=0.02, every_secs=0)


@pytest.mark.parametrize(
    "error", [NotFoundError("no such run"), BackendError("a fault", code="internal")]
)
async def test_refusals_and_faults_do_not_pass_by_themselves(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await until(server(error, "there"), every_secs=0)
    assert caught.value is error
