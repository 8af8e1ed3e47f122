"""What a JWT must look like before and after its signature is checked (RFC 7519, RFC 8725).

Both providers read tokens here, so that neither is laxer than the other: three base64url segments,
strict JSON without duplicate names or NaN, a listed algorithm, no header that brings or names a
key, and times that are real numbers.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterable
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, RSAKey

from agentcy_ray.core.errors import UnauthenticatedError

Key = OctKey | RSAKey | ECKey
MAX_LENGTH = 16_384
"""A longer token is refused before it is parsed."""
LEEWAY_SECS = 5
"""How far the clocks of the issuer and of this machine may be apart."""
MAX_LIFETIME_SECS = 31 * 86_400
"""Nobody issues an access token for longer; a later ``exp`` is a mistake or an attack."""

_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_FORBIDDEN = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "epk"})
"""Headers that bring a key, say where to get one, or change how the token is read."""
_KEY_TYPES: dict[str, type[Key]] = {"HS256": OctKey, "RS256": RSAKey, "ES256": ECKey}
_MAX_NUMBER = 2**53


def token_invalid() -> UnauthenticatedError:
    """The refusal of a bad token; no more is told, since it would tell an attacker."""
    return UnauthenticatedError("the access token is not valid; log in", code="token_invalid")


def header_of(token: str, algorithms: Collection[str], types: Collection[str]) -> dict[str, Any]:
    """The header of a token whose signature is not checked yet.

    Args:
        token: as the client sent it.
        algorithms: those that may sign.
        types: accepted ``typ`` headers in lower case; the empty text stands for none at all.

    Raises:
        UnauthenticatedError: ``token_invalid``: it is too long, malformed, signed in another way,
            or has a header that is never accepted.
    """
    header = _strict_json(_segments(token)[0])
    kind = header.get("typ", "")
    if (
        header.get("alg") not in algorithms
        or _FORBIDDEN & header.keys()
        or not isinstance(kind, str)
        or kind.lower() not in types
    ):
        raise token_invalid()
    return header


def claimed_issuer(token: str) -> str:
    """The ``iss`` of a token that nobody has verified: it says whom to ask, and no more.

    Raises:
        UnauthenticatedError: ``token_invalid``: there is none, or the token is malformed.
    """
    issuer = _strict_json(_segments(token)[1]).get("iss")
    if not isinstance(issuer, str):
        raise token_invalid()
    return issuer


def verified_claims(token: str, keys: Iterable[Key], algorithm: str) -> dict[str, Any]:
    """The claims of a token that one of ``keys`` has signed by ``algorithm``.

    Raises:
        UnauthenticatedError: ``token_invalid``: none has, or the payload is no strict JSON object.
    """
    for key in keys:
        if not isinstance(key, _KEY_TYPES[algorithm]):
            continue
        try:
            payload = jws.deserialize_compact(token, key, [algorithm]).payload
        except (JoseError, ValueError, TypeError, RecursionError):
            continue
        return _strict_json(payload)
    raise token_invalid()


def check_times(claims: dict[str, Any], now: float, longest: float = MAX_LIFETIME_SECS) -> float:
    """Check ``exp``, ``iat`` and ``nbf``; answers ``exp``.

    Args:
        claims: of a verified token.
        now: seconds since the epoch.
        longest: seconds that a token may live from now.

    Raises:
        UnauthenticatedError: ``token_expired``; ``token_invalid``: one is missing, is no plain
            number, or lies where no honest issuer puts it.
    """
    expires, issued = _number(claims.get("exp")), _number(claims.get("iat"))
    starts = _number(claims["nbf"]) if "nbf" in claims else issued
    if max(issued, starts) > now + LEEWAY_SECS or expires > now + longest + LEEWAY_SECS:
        raise token_invalid()
    if expires + LEEWAY_SECS < now:
        raise UnauthenticatedError(
            "the access token has expired; refresh it or log in again", code="token_expired"
        )
    return expires


def names_audience(claims: dict[str, Any], wanted: str) -> bool:
    """Whether ``aud``, one name or a list of names, holds the wanted one."""
    found = claims.get("aud")
    if isinstance(found, str):
        return found == wanted
    return isinstance(found, list) and wanted in found and all(isinstance(n, str) for n in found)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < _MAX_NUMBER or math.isnan(value):
        raise token_invalid()
    return float(value)


def _segments(token: str) -> list[bytes]:
    """The three segments, decoded. Each has one spelling only: unused bits at its end are zero."""
    found = _FORM.fullmatch(token) if len(token) <= MAX_LENGTH else None
    if found is None:
        raise token_invalid()
    parts: list[bytes] = []
    for text in found.groups():
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            raise token_invalid() from None
        if urlsafe_b64encode(raw).rstrip(b"=") != text.encode():
            raise token_invalid()
        parts.append(raw)
    return parts


def _strict_json(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise token_invalid() from None
    if not isinstance(value, dict):
        raise token_invalid()
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)
