"""The embedded Advanced engine: started, guarded, restarted, found again."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import httpx2
import psutil
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.checks import check_stores
from agentcy_ray.stores.embedded import status
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.kyma_check import check_kyma
from agentcy_ray.stores.resolve import embedded_servers
from tests.stores.embedded.probing import Start, until

TICKET = flight.Ticket(b'{"database":"d","query":"SELECT label FROM t","language":"sql"}')


@pytest.mark.requirement("KYMA-06")
async def test_it_runs_where_the_settings_ask_for_it_and_give_no_address(own: Settings) -> None:
    advanced = own.model_copy(update={"context_engine": "advanced"})
    elsewhere = advanced.model_copy(update={"kyma_base_url": "http://kyma:8080"})
    assert embedded_servers(advanced) == {"postgres", "redis", "kyma"}
    assert embedded_servers(elsewhere) == {"postgres", "redis"}


async def test_the_engine_that_was_used_before_runs_beside_the_one_of_the_settings(
    own: Settings,
) -> None:
    advanced = own.model_copy(update={"context_engine": "advanced"})
    (own.state_dir / "graph").mkdir(parents=True)
    assert embedded_servers(advanced) == {"postgres", "redis", "graph", "kyma"}
    assert embedded_servers(own) == {"postgres", "redis", "graph"}
    (own.state_dir / "kyma").mkdir()
    assert embedded_servers(own) == {"postgres", "redis", "graph", "kyma"}


@pytest.mark.requirement("KYMA-06")
async def test_both_ports_are_on_loopback_and_ask_for_the_token(
    start: Start, own: Settings
) -> None:
    endpoints = await start("kyma")
    [server] = status(own)
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(server.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    tokens = Layout(own.state_dir.resolve()).data("kyma") / "tokens"
    assert tokens.stat().st_mode & 0o077 == 0

    await _ingest(endpoints, "first")
    with pytest.raises(ConfigError, match="KYMA_TOKEN"):
        await check_kyma(endpoints.kyma_url, "wrong")
    with flight.connect(endpoints.kyma_flight_url) as client, pytest.raises(pa.ArrowException):
        client.do_get(TICKET).read_all()
    assert _labels(endpoints) == ["first"]


async def test_a_killed_engine_comes_back_at_its_addresses_with_its_rows(
    start: Start, own: Settings
) -> None:
    before = await start("kyma")
    await _ingest(before, "kept")
    [server] = status(own)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: [s.restarts for s in status(own)] == [1])

    after = await start("kyma")

    assert after == before
    assert _labels(after) == ["kept"]


async def test_data_that_lie_elsewhere_are_not_silently_left_behind(
    start: Start, own: Settings
) -> None:
    from agentcy_ray.stores.embedded.kyma import choose_place

    await start("kyma")
    moved = Settings.load(
        {"S3_BUCKET": "b", "S3_ACCESS_KEY_ID": "k", "S3_SECRET_ACCESS_KEY": "s"},
        agentcy_state_dir=own.state_dir,
    )
    with pytest.raises(ConfigError, match="S3_BUCKET"):
        choose_place(Layout(own.state_dir.resolve()), moved)


async def test_checks_name_it_and_what_keeps_it_from_answering(
    start: Start, endpoints: Endpoints
) -> None:
    kyma = await start("kyma")
    both = replace(endpoints, kyma_url=kyma.kyma_url, kyma_token=kyma.kyma_token)
    assert [check.name for check in await check_stores(both) if check.ok][-1] == "kyma"
    with pytest.raises(StoreUnavailableError, match="KYMA_BASE_URL"):
        await check_kyma("http://127.0.0.1:1", "")


async def _ingest(endpoints: Endpoints, label: str) -> None:
    headers = {
        "authorization": f"Bearer {endpoints.kyma_token}", "x-database": "d", "x-table": "t",
    }  # fmt: skip
    async with httpx2.AsyncClient(
        base_url=endpoints.kyma_url, headers=headers, timeout=60
    ) as client:
        body = f'{{"label":"{label}"}}\n'
        (await client.post("/v1/ingest", content=body)).raise_for_status()


def _labels(endpoints: Endpoints) -> list[str]:
    options = flight.FlightCallOptions(
        headers=[(b"authorization", f"Bearer {endpoints.kyma_token}".encode())]
    )
    with flight.connect(endpoints.kyma_flight_url) as client:
        return client.do_get(TICKET, options).read_all()["label"].to_pylist()
