"""What we read from the claims of an OIDC issuer, and which of them make a token a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentcy_ray.core.errors import RefusedError
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.token_form import token_invalid

MAX_TEXT = 254
"""Longest subject, e-mail or name of an organisation that is taken."""
_OF_ID_TOKENS = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
"""Claims that a login's ID token has and an access token has not (OpenID Connect Core 1.0, 3.1)."""
_OF_ACCESS_TOKENS = frozenset({"scope", "scp"})


@dataclass(frozen=True)
class Person:
    """Whom the issuer speaks of.

    ``org`` is an organisation's name or id; ``role`` counts there. ``email`` and ``name`` may be
    missing from an access token.
    """

    issuer: str
    subject: str
    email: str | None
    name: str
    org: str | None
    role: Role | None


def refuse_other_kinds(
    header: Mapping[str, Any], claims: Mapping[str, Any], settings: Settings
) -> None:
    """Refuse what the issuer has signed for another purpose than to call us.

    An ID token tells a client who has logged in; whoever gets hold of one must not act by it. It is
    known by its claims. Where the audience is also our client's name, so that both kinds name the
    same audience, a token must show that it is an access token.

    Raises:
        UnauthenticatedError: ``token_invalid``.
    """
    kind = claims.get("typ", "Bearer")  # Keycloak says it in a claim
    if _OF_ID_TOKENS & claims.keys() or "events" in claims or kind != "Bearer":
        raise token_invalid()
    declared = str(header.get("typ", "")).lower().removeprefix("application/") == "at+jwt"
    shown = declared or "typ" in claims or _OF_ACCESS_TOKENS & claims.keys()
    if settings.jwt_audience == settings.oidc_client_id and not shown:
        raise token_invalid()


def person_of(claims: Mapping[str, Any], issuer: str, settings: Settings) -> Person:
    """The person that verified claims speak of.

    Raises:
        UnauthenticatedError: ``token_invalid``: there is no subject.
        RefusedError: the role is none of ours, or the issuer has not verified the e-mail.
    """
    subject = _text(claims.get("sub"))
    if subject is None:
        raise token_invalid()
    email = _text(claims.get("email"))
    # Some issuers write truth values as texts.
    verified = claims.get("email_verified") not in (False, "false")
    if email is not None and ("@" not in email or not verified):
        raise RefusedError(
            "the identity provider has not verified your e-mail; verify it there, then log in"
        )
    return Person(
        issuer=issuer,
        subject=subject,
        email=email,
        name=_text(claims.get("name")) or "",
        org=_org(claims.get(settings.oidc_claim_org_id), settings),
        role=_role(claims.get(settings.oidc_claim_role), settings),
    )


def _org(value: Any, settings: Settings) -> str | None:
    if value is None:
        return None
    text = _text(value)
    if text is None:
        raise RefusedError(
            f"the claim {settings.oidc_claim_org_id!r} names no organisation; ask the operator of "
            "the identity provider to put one name or id there"
        )
    return text


def _role(value: Any, settings: Settings) -> Role | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 1:  # as issuers with many roles send one
        value = value[0]
    try:
        return Role(value)
    except ValueError:
        raise RefusedError(
            f"the claim {settings.oidc_claim_role!r} is none of {', '.join(Role)}; ask the "
            "operator of the identity provider to correct it"
        ) from None


def _text(value: Any) -> str | None:
    """A text that a column takes, else None."""
    good = isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
    return value if good else None
