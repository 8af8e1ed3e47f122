"""Errors of connectors that leave with a secret in their hand, and are searched at the door."""

from __future__ import annotations

import asyncio
from traceback import format_exception
from urllib.parse import quote

import orjson
import pytest

from agentcy_ray.connectors.redaction import Redactor, without_secrets
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.source_records import NewSource
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.errors import AgentcyError, ConnectorError, SourceConfigError
from tests.connectors.bench_source import Bench, BenchConfig, BenchConnector

CANARY = 'canary/+"secret"\\\'é 98765'


def told(error: BaseException) -> str:
    details = repr(error.details) if isinstance(error, AgentcyError) else ""
    return "".join(format_exception(error)) + repr(error) + str(error.__cause__) + details


def chained() -> Exception:
    outer = ConnectorError("it failed")
    outer.__cause__ = OSError(f"GET {CANARY}")
    return outer


@pytest.mark.requirement("SEC-03")
@pytest.mark.parametrize(
    "error",
    [
        ConnectorError(f"bad token {CANARY}", tried=[CANARY]),
        SourceConfigError(f"{CANARY} was refused", kind="credentials"),
        RuntimeError(f"bearer {CANARY}"),
        KeyError(CANARY),
        ValueError({"token": CANARY}),
        OSError(f"https://x/?t={quote(CANARY, safe='')}"),
        ValueError(orjson.dumps({"t": CANARY}).decode()),
        chained(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_that_leaves_tells_a_secret(error: Exception) -> None:
    with pytest.raises(AgentcyError) as caught, without_secrets(BenchConfig(token=CANARY)):
        raise error
    assert "canary" not in told(caught.value)


def test_what_tells_nothing_passes_as_it_is() -> None:
    for error in (ConnectorError("plain"), LookupError("plain"), asyncio.CancelledError()):
        with pytest.raises(type(error)) as caught, without_secrets(BenchConfig(token=CANARY)):
            raise error
        assert caught.value is error


def test_a_secret_is_found_in_every_spelling_of_it() -> None:
    redactor = Redactor((CANARY,))
    for spelling in (CANARY, repr(CANARY)[1:-1], quote(CANARY, safe="")):
        assert "98765" not in redactor.text(f"a {spelling} b")


@pytest.mark.requirement("SEC-03")
@pytest.mark.parametrize("kind", ["open", "check"])
async def test_a_source_that_is_refused_does_not_tell_its_secret(db, org, settings, kind) -> None:
    bench = Bench()
    if kind == "open":
        bench.open_error = SourceConfigError(f"{CANARY} was refused", kind="credentials")
    else:
        bench.error = RuntimeError(f"GET /?token={CANARY}")
    store = SourceStore(db, None, Registry([BenchConnector(bench)], settings))
    new = NewSource(name="bench", connector="bench", config={"token": CANARY})
    with pytest.raises(AgentcyError) as caught:
        await store.create(org.owner, new, check=True)
    assert "canary" not in told(caught.value)
