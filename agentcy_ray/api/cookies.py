"""The two cookies of browsers. Neither can be read by a script.

``agentcy_refresh`` carries the refresh token to the routes of logins and nowhere else, and is sent
by pages of this site alone. ``agentcy_oidc`` marks the browser that has begun a login, and must
come back with a navigation from the identity provider, hence ``Lax``.

Over https both are ``Secure`` and carry a prefix by which browsers refuse them from plain http; the
second one's also says that no other host has set it.
"""

from __future__ import annotations

from fastapi import Request, Response

from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.oauth_state import LIVES_SECS

REFRESH_PATH = "/api/v1/auth"


def set_refresh(response: Response, token: str, settings: Settings) -> None:
    """Give the browser its refresh token."""
    response.set_cookie(
        _refresh(settings), token, max_age=settings.jwt_refresh_expiry_secs, path=REFRESH_PATH,
        httponly=True, samesite="strict", secure=_secure(settings),
    )  # fmt: skip


def refresh_of(request: Request, settings: Settings) -> str | None:
    """The refresh token that the browser has."""
    return request.cookies.get(_refresh(settings))


def drop_refresh(response: Response, settings: Settings) -> None:
    """Take the refresh token from the browser."""
    response.delete_cookie(
        _refresh(settings), path=REFRESH_PATH, httponly=True, samesite="strict",
        secure=_secure(settings),
    )  # fmt: skip


def set_browser(response: Response, mark: str, settings: Settings) -> None:
    """Mark the browser that begins a login."""
    response.set_cookie(
        _browser(settings), mark, max_age=LIVES_SECS, path="/", httponly=True, samesite="lax",
        secure=_secure(settings),
    )  # fmt: skip


def browser_of(request: Request, settings: Settings) -> str | None:
    """The mark of the browser."""
    return request.cookies.get(_browser(settings))


def drop_browser(response: Response, settings: Settings) -> None:
    """Forget the mark: its login is over."""
    response.delete_cookie(
        _browser(settings), path="/", httponly=True, samesite="lax", secure=_secure(settings)
    )


def _refresh(settings: Settings) -> str:
    return "__Secure-agentcy_refresh" if _secure(settings) else "agentcy_refresh"


def _browser(settings: Settings) -> str:
    return "__Host-agentcy_oidc" if _secure(settings) else "agentcy_oidc"


def _secure(settings: Settings) -> bool:
    return settings.public_url.startswith("https://")
