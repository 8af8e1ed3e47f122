"""The one reader of the environment.

A setting is a field; its variable is the field's name in upper case. ``Settings.load`` reads the
environment once, lists every fault at once, and remembers where each value came from, so that
``agentcy config explain`` can say it. Any secret may be given as ``<NAME>_FILE``, a path to read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import ConfigDict, SecretStr, ValidationError

from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.setting_types import CommaList, Networks, OptionalText, Secret, setting

KNOWN_PREFIXES = (
    "AGENTCY_", "DATABASE_", "REDIS_", "NEO4J_", "KYMA_", "JWT_", "JWKS_", "OIDC_", "AUTH_",
    "RATE_LIMIT_", "EGRESS_", "LLM_", "EMBEDDING",
)  # fmt: skip
"""Variables with these prefixes that no setting claims are start-up warnings."""


class Settings(AccessSettings):
    """Everything that may differ between two installs. Frozen; hand it down, never re-read."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    # -- where and how the platform listens
    agentcy_state_dir: Path = setting(
        Path("~/.agentcy"), "embedded servers, generated secrets, local objects; mode 0700"
    )
    agentcy_host: str = setting("127.0.0.1", "address of the API listener")
    agentcy_port: int = setting(8080, "port of the API listener", ge=0, le=65535)
    agentcy_public_url: OptionalText = setting(None, "base of links; unset: from host and port")
    agentcy_cluster_config: OptionalText = setting(None, "the cluster config file")
    agentcy_features_policies: bool = setting(True, "false = no Rego, with a warning")
    agentcy_features_demo: bool = setting(True, "allow scripted models and the demo connector")
    agentcy_max_body_bytes: int = setting(16 * 1024 * 1024, "request body cap, bytes", ge=1024)
    ray_address: OptionalText = setting(None, "join this Ray cluster instead of starting one")
    instance_mode: str = setting("self-hosted", "env.instance_mode in policy input")
    metrics_token: Secret = setting(None, "bearer that /metrics asks for; unset = nobody's")
    cors_allowed_origins: CommaList = setting((), "allowed origins; empty = same origin only")
    trusted_proxies: Networks = setting((), "CIDRs whose X-Forwarded-For is believed")
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "log threshold")
    log_format: Literal["json", "text"] = setting("json", "form of a log line")

    # -- stores
    database_url: Secret = setting(None, "Postgres; unset = embedded")
    database_pool_max: int = setting(20, "connections per process", ge=2)
    database_statement_cache: bool = setting(True, "false for transaction poolers")
    redis_url: Secret = setting(None, "Redis; unset = embedded")
    redis_prefix: str = setting("agentcy", "prefix of every Redis key and channel")
    context_engine: Literal["basic", "advanced"] = setting("basic", "the context engine")
    context_migration: Literal["auto", "manual"] = setting(
        "auto", "auto: orgs on Basic move to Advanced by themselves once it is the engine"
    )
    neo4j_uri: OptionalText = setting(None, "Bolt server of the Basic engine; unset = embedded")
    neo4j_user: str = setting("neo4j", "user on NEO4J_URI")
    neo4j_password: Secret = setting(None, "password on NEO4J_URI")
    neo4j_database: str = setting("neo4j", "database on NEO4J_URI")
    kyma_base_url: OptionalText = setting(None, "kyma of the Advanced engine; unset = embedded")
    kyma_token: Secret = setting(None, "bearer token of KYMA_BASE_URL, write role")
    kyma_database: str = setting(
        "kyma", "database of the first org; others add their id", pattern=r"^[a-z_][a-z0-9_]{0,29}$"
    )
    kyma_flight_url: OptionalText = setting(
        None, "Flight address, grpc://host:port; unset = probed, off = never"
    )
    kyma_catalog_url: Secret = setting(None, "kyma's catalog database; unset = default shapes")
    kyma_slice_bytes: int = setting(
        8 * 1024 * 1024, "NDJSON sent to kyma at once, bytes", ge=1024, le=60 * 1024 * 1024
    )
    kyma_max_in_flight: int = setting(4, "slices under way per table and writer", ge=1, le=64)
    kyma_headers: Literal["kyma", "pensieve", "both"] = setting(
        "both", "prefix of kyma's own headers; it was renamed at 0.1.0"
    )
    s3_bucket: OptionalText = setting(None, "bucket of packages and artifacts; unset = a folder")
    s3_endpoint: OptionalText = setting(None, "S3-compatible endpoint")
    s3_region: str = setting("us-east-1", "region of the bucket")
    s3_prefix: str = setting("", "key prefix inside the bucket")
    s3_access_key_id: Secret = setting(None, "unset = the ambient role")
    s3_secret_access_key: Secret = setting(None, "unset = the ambient role")
    s3_path_style: bool = setting(False, "path-style addressing")

    # -- models
    llm_provider: Literal[
        "anthropic", "openai", "bedrock", "vertex", "openai_compatible", "local"
    ] = setting("anthropic", "default provider")
    llm_model: OptionalText = setting(None, "model of the default reference")
    llm_api_key: Secret = setting(None, "key of LLM_PROVIDER")
    llm_base_url: OptionalText = setting(None, "any OpenAI-compatible server; implies it alone")
    llm_timeout_secs: float = setting(120, "seconds to the first token", gt=0)
    llm_max_retries: int = setting(3, "retries before the first token", ge=0)
    llm_models_file: OptionalText = setting(None, "model table merged over the shipped one")
    anthropic_api_key: Secret = setting(None, "key of a further provider")
    openai_api_key: Secret = setting(None, "key of a further provider")
    aws_region: OptionalText = setting(None, "region of Bedrock; unset = ambient")
    vertex_project: OptionalText = setting(None, "Google Cloud project; unset = ambient")
    vertex_location: OptionalText = setting(None, "Google Cloud location; unset = ambient")
    gpu_second_usd: float = setting(0.0, "price of a second of a GPU in budgets, USD", ge=0)
    budget_turn_output_tokens: int = setting(
        8192, "longest answer of a turn that a budget limits, tokens", ge=16
    )

    # -- agent, tools, approvals, streams
    agent_max_iterations: int = setting(25, "model turns per run", ge=1, le=100)
    agent_run_timeout_secs: float = setting(3600, "work of a run, seconds, waits excluded", gt=0)
    agent_tool_result_bytes: int = setting(16_384, "tool result text given to the model", ge=256)
    tool_timeout_secs: float = setting(60, "limit of one tool call, seconds", gt=0)
    tool_max_result_bytes: int = setting(33_554_432, "largest result kept, bytes", ge=1024)
    approval_timeout_secs: int = setting(300, "an undecided approval expires, seconds", ge=10)
    approval_poll_secs: float = setting(2, "look at Postgres without Redis, seconds", gt=0)
    stream_coalesce_ms: int = setting(50, "at most one delta event in this time", ge=0)
    stream_coalesce_chars: int = setting(256, "or in this many characters", ge=1)
    sse_ping_secs: float = setting(15, "ping while nothing else is sent, seconds", gt=0)
    run_event_retention_days: int = setting(30, "age of the run log", ge=1)
    policy_audit_retention_days: int = setting(
        90, "whole days an audit entry is kept; an organisation may set its own", ge=1
    )
    policy_eval_timeout_ms: int = setting(50, "an evaluation past it denies", ge=1)

    # -- retrieval and ingest
    embedding_model: str = setting("local:all-MiniLM-L6-v2", "embedder of an org's first space")
    embedding_base_url: OptionalText = setting(
        None, "server of openai_compatible: embedders; unset = LLM_BASE_URL"
    )
    embedding_api_key: Secret = setting(
        None, "key of EMBEDDING_BASE_URL; without that, of LLM_BASE_URL or of OpenAI"
    )
    embedding_batch: int = setting(64, "texts per model call", ge=1)
    embedding_device: Literal["auto", "cpu", "cuda"] = setting("auto", "where it runs")
    embedding_retired_days: int = setting(
        7, "days that a space which no longer answers is kept, and written, for a roll-back", ge=0
    )
    embedding_min_recall: float = setting(
        0.95, "recall@10 against exact search that a swap asks of the new space", ge=0, le=1
    )
    embedding_min_overlap: float = setting(
        0.3, "share of hits that both spaces of a swap must have in common", ge=0, le=1
    )
    embedding_query_sample: int = setting(
        500, "queries of an organisation kept to compare spaces by; 0 = none", ge=0, le=10_000
    )
    embedding_query_days: int = setting(30, "days that a sampled query is kept", ge=1)
    chunk_tokens: int = setting(384, "tokens per chunk", ge=32, le=8192)
    chunk_overlap: int = setting(48, "tokens shared by neighbours", ge=0)
    vector_backend: Literal["pgvector", "qdrant", "pinecone"] = setting(
        "pgvector", "where new spaces keep their vectors"
    )
    qdrant_url: OptionalText = setting(None, "of VECTOR_BACKEND=qdrant")
    qdrant_api_key: Secret = setting(None, "key of QDRANT_URL, if it asks for one")
    pinecone_api_key: Secret = setting(None, "of VECTOR_BACKEND=pinecone")
    pinecone_index: OptionalText = setting(None, "name of the index; or give PINECONE_HOST")
    pinecone_host: OptionalText = setting(None, "address of the index; unset = asked by its name")
    hnsw_m: int = setting(16, "HNSW links per node", ge=4)
    hnsw_ef_construction: int = setting(128, "HNSW build width", ge=8)
    hnsw_ef_search: int = setting(100, "HNSW search width", ge=8)
    pipeline_batch_size: int = setting(2000, "rows per engine write", ge=1)
    pipeline_max_body_bytes: int = setting(
        16_777_216, "body of one request to a continuous pipeline, unpacked, bytes", ge=1024
    )
    file_drop_poll_secs: float = setting(30, "seconds between looks for dropped files", gt=0)
    package_keep: int = setting(10, "full packages kept per source", ge=1)
    package_delta_max: int = setting(20, "deltas before a fold", ge=1)
    sync_max_archive_ratio: float = setting(0.5, "publish guard of a full sync", gt=0, le=1)
    source_file_roots: CommaList = setting((), "server folders that sources may name")
    job_queue_backend: str = setting("redis", "redis, postgres or module:Class")
    job_lease_secs: float = setting(60, "a job without heartbeat is taken over after it", gt=0)
    job_heartbeat_secs: float = setting(15, "seconds between heartbeats", gt=0)
    job_max_attempts: int = setting(5, "attempts before a job is dead", ge=1)

    # -- the command-line client
    agentcy_url: OptionalText = setting(None, "server of the command line; unset = the local one")
    agentcy_api_key: Secret = setting(None, "what the command line sends instead of a login")

    @property
    def state_dir(self) -> Path:
        """The state folder, absolute."""
        return self.agentcy_state_dir.expanduser().absolute()

    @property
    def public_url(self) -> str:
        """Base of every link that is handed out."""
        return self.agentcy_public_url or f"http://{self.agentcy_host}:{self.agentcy_port}"

    @property
    def is_demo(self) -> bool:
        """Whether this is one person's machine: their state folder holds the first password."""
        return self.agentcy_features_demo and self.database_url is None

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read and check all settings.

        Args:
            environ: variables to read; the process environment when None.
            overrides: field values that win over the environment (flags of the command line).

        Raises:
            ConfigError: one or more settings are invalid; ``details["faults"]`` lists all.
        """
        env = os.environ if environ is None else environ
        values, faults = _collect(env)
        values.update(overrides)
        try:
            settings = cls(**values)
        except ValidationError as error:
            faults += [
                f"{'.'.join(str(p) for p in item['loc']).upper()}: {item['msg']}"
                for item in error.errors(include_input=False)
            ]
            settings = None
        if settings is not None:
            faults += settings.cross_faults()
        if faults or settings is None:
            raise ConfigError("settings are invalid:\n  " + "\n  ".join(faults), faults=faults)
        return settings

    def cross_faults(self) -> list[str]:
        """Faults that only show when two settings are read together."""
        faults = self.access_faults()
        if self.database_url is not None:
            faults += [
                f"{name} is required with an external DATABASE_URL"
                for name, value in (
                    ("JWT_SECRET", self.jwt_secret),
                    ("ENCRYPTION_KEY", self.encryption_key or self.kms_key_uri),
                )
                if value is None
            ]
        if self.jwt_secret is not None and len(self.jwt_secret.get_secret_value()) < 32:
            faults.append("JWT_SECRET: needs 32 characters or more")
        if self.chunk_overlap >= self.chunk_tokens:
            faults.append("CHUNK_OVERLAP: must be smaller than CHUNK_TOKENS")
        return faults


def _collect(env: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in Settings.model_fields:
        name = field.upper()
        path = env.get(f"{name}_FILE")
        if name in env:
            values[field] = env[name]
        elif path:
            try:
                values[field] = Path(path).read_text().strip()
            except OSError as error:
                faults.append(f"{name}_FILE: {error.strerror or error}; name a readable file")
    return values, faults


def unclaimed(environ: Mapping[str, str] | None = None) -> list[str]:
    """Warnings for variables that look like ours and are not, with the nearest name."""
    env = os.environ if environ is None else environ
    known = {field.upper() for field in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known}
    warnings: list[str] = []
    for name in sorted(env):
        if name in known or not name.startswith(KNOWN_PREFIXES):
            continue
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        warnings.append(f"{name} is not a setting{hint}")
    return warnings


def explain(settings: Settings, environ: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Name, value (secrets masked), origin and meaning of every setting, in order."""
    env = os.environ if environ is None else environ
    rows: list[dict[str, str]] = []
    for field, info in Settings.model_fields.items():
        name = field.upper()
        value = cast("object", getattr(settings, field))
        origin = "environment" if name in env else "file" if f"{name}_FILE" in env else "default"
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        shown = "***" if isinstance(value, SecretStr) else "" if value is None else text
        rows.append({
            "name": name, "value": shown, "origin": origin, "meaning": info.description or "",
        })  # fmt: skip
    return rows


def in_files(*fields: str) -> bool:
    """Whether one of these settings is read from a file, which may change while we run."""
    return any(f"{field.upper()}_FILE" in os.environ for field in fields)


def reread(settings: Settings, *fields: str) -> Settings:
    """Settings with the named ones read anew where they lie in files, which may change.

    Raises:
        ConfigError: a file cannot be read.
    """
    asked = {field for field in fields if in_files(field)}
    if not asked:
        return settings
    values, faults = _collect(os.environ)
    if faults:
        raise ConfigError("settings are invalid:\n  " + "\n  ".join(faults), faults=faults)
    found = {field: SecretStr(values[field]) for field in asked if field in values}
    return settings.model_copy(update=found)


def child_environment(settings: Settings) -> dict[str, str]:
    """The process environment with these settings in it, for processes that we start.

    A secret that lies in a file stays there: the child is told the file.
    """
    given = {
        field.upper(): _as_variable(getattr(settings, field))
        for field in settings.model_fields_set
        if f"{field.upper()}_FILE" not in os.environ or field.upper() in os.environ
    }
    return {**os.environ, **given, "AGENTCY_STATE_DIR": str(settings.state_dir)}


def plain_environment() -> dict[str, str]:
    """The process environment without our secrets, for processes that need none of them."""
    secret = {
        field.upper()
        for field, info in Settings.model_fields.items()
        if _is_secret(info.annotation)
    }
    return {name: value for name, value in os.environ.items() if name not in secret}


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def _as_variable(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in cast("tuple[object, ...]", value))
    return "" if value is None else str(value)


def export_environment(values: Mapping[str, str], *, override: bool = False) -> None:
    """Set variables of this process, for libraries that read theirs at import (Ray Serve does).

    A value that the operator has set wins, unless ``override`` says that this is one.
    """
    for name, value in values.items():
        if override or name not in os.environ:
            os.environ[name] = value
