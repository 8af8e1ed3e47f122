"""The door of the API by bare sockets and bodies: what it refuses, what every answer carries."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentcy_ray.api.app import create_app
from agentcy_ray.api.gate import MAX_HEADERS, MAX_URL_BYTES, Gate
from agentcy_ray.api.json_body import MAX_DEPTH, MAX_VALUES
from agentcy_ray.api.middleware import Frame
from agentcy_ray.core.settings import Settings
from tests.api.platform import API, Platform, serve

JSON = {"content-type": "application/json"}


async def raw(url: str, sent: bytes, *then: bytes) -> tuple[int, dict[str, list[str]], Any]:
    """Status, headers and JSON of the answer to bytes on a bare socket."""
    place = urlsplit(url)
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        for piece in (sent, *then):
            writer.write(piece)
            await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers: dict[str, list[str]] = {}
        for line in head.split("\r\n")[1:-2]:
            name, _, value = line.partition(":")
            headers.setdefault(name.lower(), []).append(value.strip())
        length = int(headers.get("content-length", ["0"])[0])
        body = await reader.readexactly(length)
        writer.close()
    is_json = headers.get("content-type") == ["application/json"]
    return int(head.split()[1]), headers, orjson.loads(body) if is_json else body


async def token(platform: Platform) -> str:
    return (await platform.as_("owner")).headers["authorization"]


@pytest.mark.attack
@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("GET {api}/auth/ping", "host: evil\r\nauthorization: {auth}\r\n"),
        ("GET {api}/auth/ping", "authorization: {auth}\r\nauthorization: Bearer x\r\n"),
        ("GET {api}/auth/ping", "authorization: Bearer x\r\nauthorization: {auth}\r\n"),
        ("GET {api}/auth/ping", "x-api-key: agk_a\r\nx-api-key: agk_b\r\n"),
        ("POST {api}/realms", "content-type: application/json\r\ncontent-type: text/plain\r\n"),
        ("GET {api}/auth/../auth/ping", "authorization: {auth}\r\n"),
        ("GET {api}/./auth/ping", "authorization: {auth}\r\n"),
        ("GET {api}/auth/%2e%2e/auth/ping", "authorization: {auth}\r\n"),
        ("GET {api}/auth%5cping", "authorization: {auth}\r\n"),
        ("GET {api}/sources/%00", "authorization: {auth}\r\n"),
        ("GET {api}/sources?cursor=%00", "authorization: {auth}\r\n"),
        ("GET {api}/sources/a%0d%0aset-cookie:x", "authorization: {auth}\r\n"),
        ("GET {api}/sources?q=" + "x" * MAX_URL_BYTES, "authorization: {auth}\r\n"),
        ("GET {api}/auth/ping", "x: y\r\n" * MAX_HEADERS + "authorization: {auth}\r\n"),
        ("POST {api}/realms", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        ("POST {api}/realms", "content-length: 5\r\ncontent-length: 5\r\n"),
        ("POST {api}/realms", "content-length: +5\r\n"),
        ("POST {api}/realms", "content-length: 0x5\r\n"),
    ],
)
async def test_a_head_that_may_be_read_in_two_ways_is_refused(
    platform: Platform, line: str, headers: str
) -> None:
    lines = f"{line} HTTP/1.1\r\nhost: x\r\n{headers}\r\n"
    text = lines.replace("{api}", API).replace("{auth}", await token(platform))
    status, seen, body = await raw(platform.url, text.encode(), b"{}   ")
    assert status == 400
    if isinstance(body, dict):  # or the HTTP parser's own refusal, before there is a request
        assert body["error"]["code"] == "bad_request"
        assert seen["x-request-id"] == [body["error"]["request_id"]]


@pytest.mark.attack
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"name":NaN}', 400, "bad_request"),
        (b'{"name":Infinity}', 400, "bad_request"),
        (b'{"name":-Infinity}', 400, "bad_request"),
        (b'{"name":1e999}', 400, "bad_request"),
        (b'{"name":"\\ud800"}', 400, "bad_request"),
        (b'{"name":"\\udc00\\ud800"}', 400, "bad_request"),
        (b'{"name":"\xed\xa0\x80"}', 400, "bad_request"),
        (b'{"name":"\xc0\x80"}', 400, "bad_request"),
        (b'\xef\xbb\xbf{"name":"x"}', 400, "bad_request"),
        ('{"name":"x"}'.encode("utf-16"), 400, "bad_request"),
        (b'{"name":"a\x00b"}', 400, "bad_request"),
        (b'{"name":"a\\u0000b"}', 422, "validation_failed"),
        (b'{"name":"a\\\\\\u0000b"}', 422, "validation_failed"),
        (b'{"a\\u0000":1}', 422, "validation_failed"),
        (b'{"name":' + b"9" * 40 + b"}", 422, "validation_failed"),
        (b'{"name":-9223372036854775809}', 422, "validation_failed"),
        (b'{"name":18446744073709551616}', 422, "validation_failed"),
        (b'{"name":' + b"9" * 300 + b"}", 422, "validation_failed"),
        (b'{"name":' + b"9" * 100_000 + b"}", 400, "bad_request"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), 400, "bad_request"),
        (b'{"a":' * 600 + b"1" + b"}" * 600, 400, "bad_request"),
        (b"[" * 500_000, 400, "bad_request"),
        (b"[" + b"1," * (MAX_VALUES + 1) + b"1]", 413, "payload_too_large"),
        (b"{}{}", 400, "bad_request"),
        (b"", 422, "validation_failed"),
    ],
)
async def test_a_body_that_is_more_than_json_is_refused_by_its_fault(
    platform: Platform, body: bytes, status: int, code: str
) -> None:
    owner = await platform.as_("owner")
    answer = await owner.post("/realms", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "body",
    [
        b'{"name":"a\\\\u0000b"}',  # a backslash, then the letters u0000
        b'{"name":18446744073709551615}',
        b'{"name":-9223372036854775808}',
        b'{"name":"12345678901234567890123456789"}',
        b'{"name":"\\ud83d\\udca5"}',
        b'{"name":"' + b"[" * 5000 + b'"}',
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b"[" + b"[]," * 1000 + b"[]]",
        b' {"name" : 1 }\r\n',
    ],
)
async def test_whatever_is_json_and_can_be_kept_goes_through(body: bytes) -> None:
    async def echo(request: Request) -> JSONResponse:
        return JSONResponse(await request.json())

    app = Frame(
        Gate(Starlette(routes=[Route("/", echo, methods=["POST"])]), _Nobody(), 1 << 20),
        lambda *_: None,
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api"
    ) as client:
        answer = await client.post("/", content=body, headers=JSON)
    assert answer.status_code == 200
    assert answer.json() == orjson.loads(body)


class _Nobody:
    async def bearer(self, header: bytes) -> Any:
        raise AssertionError("nobody sends a token here")


@pytest.mark.attack
async def test_a_body_that_trickles_in_is_given_up(platform: Platform) -> None:
    app = Frame(
        Gate(Starlette(), _Nobody(), 1 << 20, body_secs=5.0, piece_secs=0.2), lambda *_: None
    )
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    async with serve(app, lifespan="off") as url:
        status, _, body = await raw(url, head + b'content-length: 50\r\n\r\n{"a"')
        assert (status, body["error"]["code"]) == (400, "bad_request")
        status, _, _ = await raw(url, head + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n")
        assert status == 400


@pytest.mark.attack
@pytest.mark.parametrize(
    "header",
    ["x-http-method-override", "x-http-method", "x-method-override", "_method"],
)
async def test_no_header_changes_the_method(platform: Platform, header: str) -> None:
    owner = await platform.as_("owner")
    answer = await owner.post("/auth/ping", headers={header: "GET"})
    assert answer.status_code == 405
    for method in ("TRACE", "CONNECT", "PROPFIND", "GET\x2d"):
        answer = await owner.request(method, "/auth/ping")
        assert answer.status_code in (400, 404, 405)


async def test_every_answer_carries_its_headers_once(platform: Platform) -> None:
    owner = await platform.as_("owner")
    for path in ("/auth/ping", "/nowhere", "/openapi.json", "/sources"):
        answer = await owner.get(path)
        names = [name.lower() for name, _ in answer.headers.raw]
        for name in (
            b"x-request-id", b"content-security-policy", b"x-content-type-options",
            b"referrer-policy", b"x-frame-options", b"permissions-policy", b"cache-control",
            b"cross-origin-opener-policy", b"cross-origin-resource-policy",
        ):  # fmt: skip
            assert names.count(name) == 1, (path, name)
        assert b"strict-transport-security" not in names
        assert b"access-control-allow-origin" not in names


async def test_an_install_behind_https_says_so_to_browsers() -> None:
    async def never() -> Any:
        raise AssertionError("the lifespan does not run here")

    app = create_app(Settings.load({}, agentcy_public_url="https://a.example.com"), never)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api"
    ) as client:
        answer = await client.get("/health/live")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.attack
@pytest.mark.parametrize(
    "origin",
    [
        "https://console.test.evil.com", "https://evilconsole.test", "http://console.test",
        "https://console.test:8443", "https://CONSOLE.test", "https://console.test/", "null",
    ],
)  # fmt: skip
async def test_the_list_of_origins_is_exact(origin: str) -> None:
    async def never() -> Any:
        raise AssertionError("the lifespan does not run here")

    app = create_app(Settings.load({}, cors_allowed_origins=("https://console.test",)), never)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api"
    ) as client:
        asked = await client.get("/health/live", headers={"origin": origin})
        preflight = await client.options(
            "/x", headers={"origin": origin, "access-control-request-method": "POST"}
        )
    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in preflight.headers
    error = preflight.json()["error"]
    assert (preflight.status_code, error["code"]) == (400, "bad_request")
    assert error["request_id"] == preflight.headers["x-request-id"]
