"""The key ring of an install, as its settings name it."""

from __future__ import annotations

import re
from collections.abc import Callable

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings, reread
from agentcy_ray.stores.egress import Egress
from agentcy_ray.stores.keys import aws, gcp, transit
from agentcy_ray.stores.keys.install import InstallSource
from agentcy_ray.stores.keys.ring import KeyRing
from agentcy_ray.stores.keys.service import KeyService
from agentcy_ray.stores.keys.source import KeySource
from agentcy_ray.stores.secrets import install_keys
from agentcy_ray.stores.vault import Vault

_GCP_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")


def open_vault(settings: Settings) -> Vault:
    """The vault of an install; a key service is asked when the first secret is, not now.

    Raises:
        ConfigError: a key is malformed or missing, or a library is not installed.
    """
    return Vault(open_keys(settings))


def open_keys(settings: Settings) -> KeyRing:
    """The key service of KMS_KEY_URI, else the install's key; and whatever came before.

    Raises:
        ConfigError: as ``open_vault``.
    """
    install = InstallSource(lambda: install_keys(settings))
    services = [
        _service(uri, settings)
        for uri in (settings.kms_key_uri, settings.kms_key_uri_previous)
        if uri is not None
    ]
    if settings.kms_key_uri is None:
        return KeyRing(install, services)
    return KeyRing(services[0], [*services[1:], install])


def _service(uri: str, settings: Settings) -> KeySource:
    for scheme, opened in _SCHEMES.items():
        if uri.startswith(scheme):
            if not (settings.kms_key_uri or uri).startswith(scheme):  # another cloud's address
                settings = settings.model_copy(update={"kms_endpoint": None})
            return opened(uri.removeprefix(scheme), settings)
    raise ConfigError(f"no key service is called {uri}; use one of {', '.join(_SCHEMES)}")


def _aws(key: str, settings: Settings) -> KeySource:
    region = aws.region_of(key, settings.aws_region)
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = settings.kms_endpoint or f"https://kms.{region}.{domain}/"
    return aws.AwsSource(key, url, _connect(settings), aws.ambient_signer(region))


def _gcp(key: str, settings: Settings) -> KeySource:
    if not _GCP_KEY.fullmatch(key):
        raise ConfigError(
            "KMS_KEY_URI of Google Cloud is "
            "gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version"
        )
    url = settings.kms_endpoint or gcp.PUBLIC_URL
    return gcp.GcpSource(key, url, _connect(settings), gcp.ambient_bearer())


def _transit(key: str, settings: Settings) -> KeySource:
    mount, _, name = key.rpartition("/")
    if not mount or not name:
        raise ConfigError("KMS_KEY_URI of Vault is vault://<mount of transit>/<key>")
    if settings.vault_addr is None:
        raise ConfigError("KMS_KEY_URI names a key of Vault; set VAULT_ADDR, and VAULT_TOKEN")

    def token() -> str:  # anew each time: an agent may renew it in its file
        given = reread(settings, "vault_token").vault_token
        if given is None:
            raise ConfigError("KMS_KEY_URI names a key of Vault; set VAULT_TOKEN")
        return given.get_secret_value()

    return transit.TransitSource(
        key, settings.vault_addr, _connect(settings), token, settings.vault_namespace
    )


_SCHEMES: dict[str, Callable[[str, Settings], KeySource]] = {
    aws.SCHEME: _aws,
    gcp.SCHEME: _gcp,
    transit.SCHEME: _transit,
}


def _connect(settings: Settings) -> KeyService:
    return KeyService(Egress(settings).guard("operator"))
