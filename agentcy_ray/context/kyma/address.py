"""Where a kyma is, and as whom we come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from agentcy_ray.core.errors import ConfigError

Prefix = Literal["kyma", "pensieve", "both"]
FLIGHT_PORT = 9090
NO_FLIGHT = "off"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class KymaAddress:
    """HTTP and Flight addresses of one kyma, which are separate, with the bearer token.

    ``flight_url`` None = try ``FLIGHT_PORT`` of the HTTP host, then the HTTP port; ``off`` = never.
    ``prefix`` names the generation of kyma's own headers: it was renamed at 0.1.0.

    Raises:
        ConfigError: an address is malformed.
    """

    base_url: str
    flight_url: str | None = None
    token: SecretStr | None = None
    prefix: Prefix = "both"

    def __post_init__(self) -> None:
        _checked("KYMA_BASE_URL", self.base_url, ("http", "https"), "http://host:8080")
        if self.flight_url not in {None, NO_FLIGHT}:
            _checked(
                "KYMA_FLIGHT_URL", self.flight_url or "", ("grpc", "grpc+tcp", "grpc+tls"),
                "grpc://host:9090, or off",
            )  # fmt: skip

    @property
    def flight_candidates(self) -> tuple[str, ...]:
        """Flight addresses to try, in order; empty = Flight is switched off."""
        if self.flight_url == NO_FLIGHT:
            return ()
        if self.flight_url is not None:
            return (self.flight_url,)
        base = urlsplit(self.base_url)
        scheme = "grpc+tls" if base.scheme == "https" else "grpc"
        host = f"[{base.hostname}]" if ":" in (base.hostname or "") else base.hostname
        port = base.port or (443 if base.scheme == "https" else 80)
        return tuple(dict.fromkeys(f"{scheme}://{host}:{p}" for p in (FLIGHT_PORT, port)))

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine, where no proxy of the environment may come between."""
        return urlsplit(self.base_url).hostname in _LOOPBACK

    @property
    def authorization(self) -> dict[str, str]:
        """The header that carries the token; none without one."""
        if self.token is None:
            return {}
        return {"authorization": f"Bearer {self.token.get_secret_value()}"}

    def own_headers(self, name: str, value: object) -> dict[str, str]:
        """One of kyma's own headers, such as ``Max-Wall-Clock-Ms``, in the generations asked."""
        prefixes = ("Kyma", "Pensieve") if self.prefix == "both" else (self.prefix.capitalize(),)
        return {f"X-{prefix}-{name}": str(value) for prefix in prefixes}

    def without_token(self, text: str) -> str:
        """``text`` with the token masked, for what a server or a proxy echoes."""
        secret = self.token.get_secret_value() if self.token is not None else ""
        return text.replace(secret, "***") if secret else text


def _checked(name: str, url: str, schemes: tuple[str, ...], form: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
        parts = urlsplit("")
    if not fine or parts.username or parts.password:
        raise ConfigError(
            f"{name} is no address of kyma; write {form}, without a user name in it (the token goes"
            " into KYMA_TOKEN)"
        )
