"""What only one of the renderings reads: Serve's listener, Kubernetes, ``ray up``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from agentcy_ray.runtime.cluster_config.nodes import Name
from agentcy_ray.runtime.cluster_config.units import Section

Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]

SECRET_VARIABLES = (
    "DATABASE_URL", "REDIS_URL", "NEO4J_PASSWORD", "JWT_SECRET", "ENCRYPTION_KEY", "ADMIN_PASSWORD",
)  # fmt: skip
"""Secrets without which several machines cannot share stores and sessions."""


class ServeOptions(Section):
    """The HTTP ingress of a cluster of several machines."""

    host: str = "127.0.0.1"
    """Address that it listens on; beyond loopback only behind a TLS proxy, see the model."""
    port: int = Field(default=8000, ge=1, le=65535)
    drain_secs: float = Field(default=30, ge=0)
    """An ingress replica that leaves keeps answering so long."""


class Ingress(Section):
    """The way in from outside, on port 443."""

    host: str = Field(min_length=1)
    tls_secret: Name
    class_name: str | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


class Kubernetes(Section):
    """What the RayService and the chart need beyond the parts and nodes."""

    namespace: Name = "agentcy"
    image: str = Field(default="agentcy-ray:0.1.0", min_length=1)
    image_pull_policy: Annotated[
        str, StringConstraints(pattern="^(Always|IfNotPresent|Never)$")
    ] = "IfNotPresent"
    secret: Name = Field(default="agentcy")
    """Secret whose keys are variables of the platform; its values are never in a rendered file."""
    secret_keys: tuple[Variable, ...] = SECRET_VARIABLES
    auth_secret: Name = Field(default="agentcy-ray-token")
    """Secret with Ray's token under the key ``auth_token``."""
    service_account: Name = "agentcy"
    service_unhealthy_secs: int = Field(default=900, ge=1)
    deployment_unhealthy_secs: int = Field(default=300, ge=1)
    ingress: Ingress | None = None


class RayUp(Section):
    """What ``ray up`` needs beyond the parts and nodes."""

    provider: dict[str, object] = Field(
        default_factory=lambda: {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    )
    """The provider section as Ray takes it: ``{type: aws, region: …}``, ``{type: local, …}``."""
    auth: dict[str, object] = Field(default_factory=lambda: {"ssh_user": "agentcy"})
    idle_timeout_minutes: int = Field(default=10, ge=1)
    setup_commands: tuple[str, ...] = ()
    """Run on each node before Ray starts: install this package there."""
    environment_file: str = "/etc/agentcy/environment"
    """File on each node with the platform's variables, secrets included, mode 0600."""

    @model_validator(mode="after")
    def _typed(self) -> RayUp:
        if not isinstance(self.provider.get("type"), str):
            raise ValueError("provider needs a type, such as aws, gcp, azure or local")
        return self
