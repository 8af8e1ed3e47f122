"""Settings of an identity provider that cannot work stop the start, all faults at once."""

from __future__ import annotations

import pytest

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings

DISCOVERY = "https://login.example.com/.well-known/openid-configuration"
CLIENT = {"OIDC_DISCOVERY_URL": DISCOVERY, "OIDC_CLIENT_ID": "agentcy"}
KEYS = {"JWT_ISSUER": "https://login.example.com", "JWKS_URL": "https://login.example.com/keys"}


@pytest.mark.parametrize(
    "given",
    [
        CLIENT,
        {"OIDC_DISCOVERY_URL": DISCOVERY, "JWT_AUDIENCE": "api"},
        {**KEYS, "JWT_AUDIENCE": "api"},
        {**CLIENT, "OIDC_DISCOVERY_URL": "http://127.0.0.1:9000/.well-known/openid-configuration"},
    ],
)
def test_a_provider_that_can_work_is_taken(given: dict[str, str]) -> None:
    assert Settings.load({"AUTH_PROVIDER": "local,oidc", **given}).auth_provider == (
        "local",
        "oidc",
    )


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "OIDC_DISCOVERY_URL"),
        ({"JWT_ISSUER": "https://a.example", "JWT_AUDIENCE": "api"}, "JWKS_URL"),
        ({"OIDC_DISCOVERY_URL": DISCOVERY}, "JWT_AUDIENCE"),
        ({**KEYS, "OIDC_CLIENT_ID": "agentcy"}, "OIDC_CLIENT_ID"),
        ({**CLIENT, "OIDC_DISCOVERY_URL": DISCOVERY.replace("https", "http")}, "must be https"),
        ({**CLIENT, "JWKS_URL": "http://127.0.0.1.attacker.test/keys"}, "must be https"),
        ({**CLIENT, "JWKS_URL": "file:///etc/keys"}, "must be https"),
    ],
)
def test_a_provider_that_cannot_work_stops_the_start(given: dict[str, str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Settings.load({"AUTH_PROVIDER": "oidc", **given})
    Settings.load({"AUTH_PROVIDER": "local", **given})  # without it they mean nothing
