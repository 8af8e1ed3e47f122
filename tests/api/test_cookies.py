"""Cookies of browsers: what they are called, and who may read or send them."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest
from starlette.requests import Request
from starlette.responses import Response

from agentcy_ray.api import cookies
from agentcy_ray.core.settings import Settings


@pytest.mark.parametrize("secure", [True, False])
def test_over_https_cookies_are_secure_and_named_so_that_http_cannot_set_them(secure: bool) -> None:
    scheme = "https" if secure else "http"
    settings = Settings.load({}, agentcy_public_url=f"{scheme}://agentcy.test")
    response = Response()
    cookies.set_refresh(response, "rt_secret", settings)
    cookies.set_browser(response, "mark", settings)
    refresh, browser = (
        next(iter(SimpleCookie(text).values())) for text in response.headers.getlist("set-cookie")
    )
    assert (refresh.key, browser.key) == (
        ("__Secure-agentcy_refresh", "__Host-agentcy_oidc")
        if secure
        else ("agentcy_refresh", "agentcy_oidc")
    )
    for cookie, site, path in ((refresh, "strict", "/api/v1/auth"), (browser, "lax", "/")):
        assert cookie["httponly"] is True
        assert bool(cookie["secure"]) is secure
        assert (cookie["samesite"], cookie["path"], cookie["domain"]) == (site, path, "")
    header = f"{refresh.key}=rt_secret; {browser.key}=mark".encode()
    request = Request({"type": "http", "headers": [(b"cookie", header)]})
    assert cookies.refresh_of(request, settings) == "rt_secret"
    assert cookies.browser_of(request, settings) == "mark"
    gone = Response()
    cookies.drop_refresh(gone, settings)
    cookies.drop_browser(gone, settings)
    assert all('=""; ' in text for text in gone.headers.getlist("set-cookie"))
