"""One error shape for everything, and a document that describes everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
from starlette.routing import Route

from agentcy_ray.api.app import create_app
from agentcy_ray.api.error_shapes import V1, dialect_of
from agentcy_ray.api.openapi import PREFIX, permissions, v1_permissions
from agentcy_ray.core.settings import Settings
from tests.api.platform import Platform

ERRORS = {
    "house": "ErrorBody", "openai": "OpenAiErrorBody", "anthropic": "AnthropicErrorBody",
    "otlp": "OtlpStatus",
}  # fmt: skip
JSON = {"content-type": "application/json"}


def assert_shape(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "request_id", "details"}
    assert body["error"]["code"] == code
    assert len(body["error"]["message"]) > 10
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    return body["error"]


@pytest.mark.requirement("API-03")
@pytest.mark.parametrize(
    ("method", "path", "how", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("GET", "/sources/", {}, 404, "not_found"),
        ("PUT", "/sources", {"json": {}}, 405, "method_not_allowed"),
        ("DELETE", "/auth/ping", {}, 405, "method_not_allowed"),
        ("POST", "/realms", {"content": b'{"name": ', "headers": JSON}, 400, "bad_request"),
        ("POST", "/realms", {"content": b"\xff\xfe{}", "headers": JSON}, 400, "bad_request"),
        ("POST", "/realms", {"content": b"[" * 100_000, "headers": JSON}, 400, "bad_request"),
        ("POST", "/realms", {"content": b"name=x"}, 415, "unsupported_media_type"),
        ("POST", "/realms", {"data": {"name": "x"}}, 415, "unsupported_media_type"),
        ("POST", "/realms", {"json": {"name": "No Capitals"}}, 422, "validation_failed"),
        ("POST", "/realms", {"json": []}, 422, "validation_failed"),
        ("POST", "/realms", {}, 422, "validation_failed"),
        ("GET", "/sources?limit=0", {}, 422, "validation_failed"),
        ("GET", "/sources?limit=201", {}, 422, "validation_failed"),
        ("GET", "/sources?cursor=abc", {}, 400, "cursor_invalid"),
        ("GET", "/sources?cursor=%F0%9F%92%A5", {}, 400, "cursor_invalid"),
        ("GET", "/sources/src_nonsense", {}, 404, "not_found"),
        ("GET", "/sources/run_00000000000000000000000000", {}, 404, "not_found"),
        ("GET", "/sources", {"headers": {"authorization": "Basic eDp5"}}, 401, "token_invalid"),
        ("GET", "/sources", {"headers": {"authorization": "Bearer x.y.z"}}, 401, "token_invalid"),
        ("POST", "/realms", {"json": {"name": "default"}}, 409, "conflict"),
        ("GET", "/sources", {"headers": {"x-big": "x" * 70_000}}, 400, "bad_request"),
    ],
)
async def test_every_refusal_has_the_error_shape(
    platform: Platform, method: str, path: str, how: Any, status: int, code: str
) -> None:
    owner = await platform.as_("owner")
    assert_shape(await owner.request(method, path, **how), status, code)


@pytest.mark.requirement("API-03")
async def test_a_body_over_the_cap_is_refused_by_its_length_and_as_it_arrives(
    platform: Platform,
) -> None:
    owner = await platform.as_("owner")
    blob = b'{"name":"' + b"x" * platform.settings.agentcy_max_body_bytes + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(blob), 1 << 20):
            yield blob[start : start + (1 << 20)]

    told = await owner.post("/realms", content=blob, headers=JSON)
    assert_shape(told, 413, "payload_too_large")
    chunked = await owner.post("/realms", content=pieces(), headers=JSON)
    assert_shape(chunked, 413, "payload_too_large")


@pytest.mark.requirement("API-03")
async def test_a_fault_of_ours_tells_nothing_but_the_request_id() -> None:
    app = create_app(Settings.load({}), _never)

    async def broken(_: Any) -> Any:
        raise RuntimeError("the password is hunter2")

    app.router.routes.insert(0, Route("/broken", broken))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        error = assert_shape(await client.get("/broken"), 500, "internal")
        assert "hunter2" not in str(error)
        assert_shape(await client.get(f"{PREFIX}/auth/me"), 401, "unauthenticated")
        starting = await client.get(f"{PREFIX}/auth/me", headers={"authorization": "Bearer x"})
        assert_shape(starting, 503, "unavailable")
        assert starting.headers["retry-after"] == "1"


async def test_a_request_id_is_taken_when_it_is_well_formed_and_made_otherwise(
    platform: Platform,
) -> None:
    client = platform.client()
    kept = await client.get("/auth/config", headers={"x-request-id": "trace-0123456789"})
    assert kept.headers["x-request-id"] == "trace-0123456789"
    for bad in ("short", "has space in it", "x" * 65, 'quote"quote'):
        made = await client.get("/auth/config", headers={"x-request-id": bad})
        assert made.headers["x-request-id"].startswith("req_")


async def test_a_preflight_is_answered_for_allowed_origins_only() -> None:
    app = create_app(Settings.load({}, cors_allowed_origins=("https://console.test",)), _never)
    transport = httpx.ASGITransport(app)
    asks = {"access-control-request-method": "POST"}
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        good = await client.options("/x", headers={"origin": "https://console.test", **asks})
        assert good.headers["access-control-allow-origin"] == "https://console.test"
        bad = await client.options("/x", headers={"origin": "https://evil.test", **asks})
        assert bad.status_code == 400
        assert bad.json()["error"]["code"] == "bad_request"
        refused = await client.get(
            f"{PREFIX}/auth/me",
            headers={"origin": "https://console.test", "authorization": "Basic x"},
        )
        assert refused.status_code == 503  # nothing is open here, and the browser may read it
        assert refused.headers["access-control-allow-origin"] == "https://console.test"


@pytest.mark.requirement("API-01")
async def test_the_document_describes_every_route_with_its_errors(platform: Platform) -> None:
    answer = await platform.client().get("/openapi.json")
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    served = {
        (method.lower(), route.path_format)
        for route in platform.app.routes
        if isinstance(route, Route) and route.path.startswith((PREFIX, V1))
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(m, path) for path, methods in document["paths"].items() for m in methods}
    assert served | {("get", f"{PREFIX}/openapi.json")} == described
    assert Settings.load({}).agentcy_port == 8080
    needed = permissions(platform.app) | v1_permissions(platform.app)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            schema = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            dialect = "otlp" if "/otlp/" in path else dialect_of(path)
            assert schema["$ref"].endswith(f"/{ERRORS[dialect]}")
            permission = needed.get((method.upper(), path))
            asked = [scheme for each in operation["security"] for scheme in each]
            assert (asked == ["bearer", "api_key"]) == (permission is not None)
            assert set(asked) <= document["components"]["securitySchemes"].keys()
            if permission not in (None, "any"):
                assert operation["x-permission"] == permission
    assert "ErrorBody" in document["components"]["schemas"]


async def _never() -> Any:
    raise AssertionError("the lifespan does not run here")
