"""Log in by the identity provider, in a browser."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from agentcy_ray.api import cookies
from agentcy_ray.api.logins import client_of, counted, note_login, note_refusal
from agentcy_ray.api.services import services_of
from agentcy_ray.identity.oidc_login import Arrival, require_login

router = APIRouter(tags=["auth"])


@router.get("/auth/oidc/start", status_code=302, response_class=RedirectResponse)
async def start(
    request: Request,
    return_to: str = Query("/", max_length=512, description="A path of this server"),
) -> Response:
    """Send the browser to the identity provider; it comes back to the callback."""
    services = services_of(request)
    login = require_login(services.access.oidc and services.access.oidc.login)
    await services.access.session_limit.check(f"oidc:{counted(client_of(request))}")
    started = await login.start(return_to)
    response = RedirectResponse(started.url, status_code=302)
    cookies.set_browser(response, started.browser, services.settings)
    return response


@router.get("/auth/oidc/callback", status_code=302, response_class=RedirectResponse)
async def callback(
    request: Request,
    state: str = Query(max_length=256),
    code: str | None = Query(None, max_length=4096),
    error: str | None = Query(None, max_length=256),
    iss: str | None = Query(None, max_length=512),
) -> Response:
    """End a login that was begun in this browser, and send it to where it wanted to go.

    The browser then has a refresh token as a cookie, by which `POST /auth/refresh` gives an access
    token. A state that is used, expired or another browser's is 400 `oauth_state_invalid`.
    """
    services = services_of(request)
    login = require_login(services.access.oidc and services.access.oidc.login)
    await services.access.session_limit.check(f"oidc:{counted(client_of(request))}")
    arrival = Arrival(state, code, error, iss, cookies.browser_of(request, services.settings))
    session, return_to = await login.finish(
        arrival, client_of(request), partial(note_refusal, request, "auth.login")
    )
    await note_login(request, "auth.login", session.org_id, session.user_id)
    response = RedirectResponse(services.settings.public_url.rstrip("/") + return_to, 302)
    cookies.set_refresh(response, session.refresh_token, services.settings)
    cookies.drop_browser(response, services.settings)
    return response
