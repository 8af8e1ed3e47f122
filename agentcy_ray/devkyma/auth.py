"""Bearer tokens with three ordered roles, refused in plain text as kyma's middleware does."""

from __future__ import annotations

import hmac

from agentcy_ray.devkyma.config import Role


class AuthError(Exception):
    """A refusal: 401 or 403 with its plain text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def role_of(tokens: dict[str, Role], authorization: str | None) -> Role:
    """The role of a caller; everybody is an admin where there are no tokens.

    Raises:
        AuthError: 401 without a known token.
    """
    if not tokens:
        return Role.ADMIN
    if authorization is None or not authorization.startswith("Bearer "):
        raise AuthError(401, "missing Authorization: Bearer <token>")
    given = authorization.removeprefix("Bearer ").encode()
    found = [role for token, role in tokens.items() if hmac.compare_digest(token.encode(), given)]
    if not found:
        raise AuthError(401, "unknown token")
    return found[0]


def require(tokens: dict[str, Role], authorization: str | None, least: Role) -> Role:
    """The role of a caller, when it is high enough.

    Raises:
        AuthError: 401 without a known token, 403 for a lower role.
    """
    role = role_of(tokens, authorization)
    if role < least:
        raise AuthError(403, f"token role `{role.shown}` below required `{least.shown}`")
    return role
