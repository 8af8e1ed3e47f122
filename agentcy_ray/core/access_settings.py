"""Settings of who gets in, what is kept secret, and where the platform may connect to."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel

from agentcy_ray.core.setting_types import CommaList, Networks, OptionalText, Secret, setting

PROVIDERS = ("local", "oidc")
KEY_SERVICES = ("aws-kms://", "gcp-kms://", "vault://")


def _are_providers(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or set(value) - set(PROVIDERS):
        raise ValueError(f"name one or both of {', '.join(PROVIDERS)}")
    return value


def _is_key_uri(value: str | None) -> str | None:
    if value is not None and not value.startswith(KEY_SERVICES):
        raise ValueError(f"begins with one of {', '.join(KEY_SERVICES)}")
    return value


KeyUri = Annotated[OptionalText, AfterValidator(_is_key_uri)]
Providers = Annotated[CommaList, AfterValidator(_are_providers)]


class AccessSettings(BaseModel):
    """Identity, secrets, limits and the way out."""

    # -- identity
    auth_provider: Providers = setting(("local",), "local, oidc or both, comma separated")
    auth_registration: Literal["open", "invite", "off"] = setting("invite", "who may register")
    admin_email: str = setting("admin@localhost", "first owner")
    admin_password: Secret = setting(None, "first owner's password; unset = generated")
    jwt_secret: Secret = setting(None, "signs access tokens, >= 32 characters; generated embedded")
    jwt_secret_previous: Secret = setting(None, "still verifies")
    jwt_expiry_secs: int = setting(3600, "lifetime of an access token, seconds", ge=30)
    jwt_refresh_expiry_secs: int = setting(2_592_000, "lifetime of a refresh token, seconds", ge=60)
    jwks_url: OptionalText = setting(None, "keys of the OIDC issuer; unset = discovered")
    jwt_issuer: OptionalText = setting(None, "issuer of OIDC access tokens; unset = discovered")
    jwt_audience: OptionalText = setting(None, "audience of OIDC access tokens")
    jwks_ttl_secs: int = setting(3600, "age at which the issuer's keys are read anew", ge=1)
    oidc_discovery_url: OptionalText = setting(
        None, "the issuer's /.well-known/openid-configuration; browser login"
    )
    oidc_client_id: OptionalText = setting(None, "our name at the issuer")
    oidc_client_secret: Secret = setting(None, "our secret at the issuer; unset = public client")
    oidc_claim_org_id: str = setting("https://agentcy.dev/org_id", "claim that names the org")
    oidc_claim_role: str = setting("https://agentcy.dev/role", "claim that names the role")
    oidc_jit_org: bool = setting(False, "create an org at a first login without the claim")

    # -- secrets
    encryption_key: Secret = setting(None, "32 bytes base64, wraps data keys; generated embedded")
    encryption_key_previous: Secret = setting(None, "still unwraps")
    kms_key_uri: KeyUri = setting(
        None, "wrap data keys by a key service instead: aws-kms://, gcp-kms:// or vault://"
    )
    kms_key_uri_previous: KeyUri = setting(None, "still unwraps")
    kms_endpoint: OptionalText = setting(None, "the service of KMS_KEY_URI at another address")
    vault_addr: OptionalText = setting(None, "server of vault:// keys")
    vault_token: Secret = setting(None, "token for VAULT_ADDR; as a file it may change")
    vault_namespace: OptionalText = setting(None, "namespace of VAULT_ADDR")

    # -- limits
    rate_limit_login_rpm: int = setting(10, "logins per minute by address and e-mail", ge=1)
    rate_limit_user_rpm: int = setting(6000, "requests per minute of a user", ge=1)
    rate_limit_org_rpm: int = setting(60_000, "requests per minute of an organisation", ge=1)
    sse_streams_per_user: int = setting(200, "event streams that a user may hold open", ge=1)

    # -- the listener
    agentcy_tls_cert: OptionalText = setting(
        None, "PEM file with the certificate chain of the API listener; unset = no TLS"
    )
    agentcy_tls_key: OptionalText = setting(
        None, "PEM file with its private key; unset = in the file of the certificate"
    )
    agentcy_behind_tls_proxy: bool = setting(
        False, "a statement: what listens beyond loopback is reached through a TLS proxy alone"
    )

    # -- the way out
    https_proxy: OptionalText = setting(None, "proxy of outgoing https requests")
    http_proxy: OptionalText = setting(None, "proxy of outgoing http requests")
    no_proxy: CommaList = setting((), "hosts that no proxy stands before")
    egress_private_cidrs: Networks = setting(
        (), "private ranges that sources and tenant-set URLs may reach"
    )
    egress_allowed_hosts: CommaList = setting(
        (), "hosts that may be reached, *.example.com for a domain; empty = any public host"
    )

    def access_faults(self) -> list[str]:
        """Faults of these settings that only show when several are read together."""
        if "oidc" not in self.auth_provider:
            return []
        faults: list[str] = []
        if self.oidc_discovery_url is None and None in (self.jwt_issuer, self.jwks_url):
            faults.append("AUTH_PROVIDER=oidc needs OIDC_DISCOVERY_URL, or JWT_ISSUER and JWKS_URL")
        if self.oidc_client_id is None and self.jwt_audience is None:
            faults.append("AUTH_PROVIDER=oidc needs OIDC_CLIENT_ID (login by the browser),"
                          " JWT_AUDIENCE (access tokens of other clients), or both")  # fmt: skip
        if self.oidc_client_id is not None and self.oidc_discovery_url is None:
            faults.append("OIDC_CLIENT_ID needs OIDC_DISCOVERY_URL, where the login begins")
        for name in ("oidc_discovery_url", "jwks_url"):
            url: str | None = getattr(self, name)
            if url is not None and not _is_private_channel(url):
                faults.append(f"{name.upper()}: must be https, or http on this machine's loopback")
        return faults


def _is_private_channel(url: str) -> bool:
    """Whether nobody on the way can change what comes back."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (
            parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
        )
    except ValueError:
        return False
