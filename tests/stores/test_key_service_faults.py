"""Key services that fail, are away, or answer nonsense."""

from __future__ import annotations

import secrets

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.keys import service
from agentcy_ray.stores.keys.opening import open_keys
from agentcy_ray.stores.keys.source import KEY_BYTES, KeySource

DATA_KEY = secrets.token_bytes(KEY_BYTES)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAUSES_SECS", (0.0, 0.0))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("statuses", "tries", "outcome"),
    [([503, 429, 200], 3, "answers"), ([503] * 4, 3, r"refuses \(503\)"), ([403], 1, "refuses")],
)
async def test_a_service_is_asked_again_where_that_may_help(
    httpserver: HTTPServer, statuses: list[int], tries: int, outcome: str
) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        asked.append(request)
        text = f'{{"data": {{"ciphertext": "vault:v1:{"A" * 80}"}}}}'
        return Response(text, statuses[len(asked) - 1], content_type="application/json")

    httpserver.expect_request("/v1/transit/encrypt/a").respond_with_handler(answer)
    source = _vault_at(httpserver.url_for(""))
    if outcome == "answers":
        assert (await source.wrap(DATA_KEY)).key_id == "vault://transit/a#v1"
    else:
        with pytest.raises(StoreUnavailableError, match=outcome) as refused:
            await source.wrap(DATA_KEY)
        assert "of-a-test" not in str(refused.value)
    assert len(asked) == tries
    await source.aclose()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data": {"ciphertext": 7}}', b'{"data": {"ciphertext": "v1:"}}',
             b"x" * 100_000]
)  # fmt: skip
async def test_an_answer_that_is_none_is_refused(httpserver: HTTPServer, body: bytes) -> None:
    httpserver.expect_request("/v1/transit/encrypt/a").respond_with_data(body)
    source = _vault_at(httpserver.url_for(""))
    with pytest.raises(StoreUnavailableError):
        await source.wrap(DATA_KEY)
    await source.aclose()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://169.254.169.254"])
async def test_a_service_that_is_away_or_out_of_bounds_is_said_to_be(url: str) -> None:
    source = _vault_at(url)
    with pytest.raises(StoreUnavailableError, match="key service vault://transit/a"):
        await source.wrap(DATA_KEY)
    await source.aclose()


def _vault_at(url: str) -> KeySource:
    settings = Settings.load({
        "KMS_KEY_URI": "vault://transit/a",
        "VAULT_ADDR": url,
        "VAULT_TOKEN": "of-a-test",
    })
    return open_keys(settings).current
