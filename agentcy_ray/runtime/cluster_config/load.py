"""Reading the cluster config; every fault comes with its path and the way out."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.runtime.cluster_config.model import ClusterConfig


def load_cluster_config(source: str | None) -> ClusterConfig:
    """Read and check a cluster config; the defaults, which are the laptop shape, without one.

    Args:
        source: a path, or the config itself as a JSON object: processes on other machines get it
            in their environment and need no file.

    Raises:
        ConfigError: as ``read_cluster_config``.
    """
    return read_cluster_config(source)


def read_cluster_config(
    source: str | None, *, calls_per_minute: int | None = None
) -> ClusterConfig:
    """As ``load_cluster_config``, for another target of the hot path than the file's when given.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, has unknown or invalid keys, or a
            combination that cannot work; ``details["faults"]`` lists ``{path, message}``.
    """
    if source is None:
        text = ""
    elif source.lstrip().startswith("{"):
        text = source
    else:
        text = _read(source)
    try:
        data: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the cluster config is not YAML: {error}; mend it there", code="cluster_config_invalid"
        ) from error
    if calls_per_minute is not None and isinstance(data, dict):
        fields = cast("dict[str, Any]", data)
        hot_path = fields.get("hot_path") or {}
        fields["hot_path"] = {**hot_path, "calls_per_minute": calls_per_minute}
    try:
        return ClusterConfig.model_validate(data)
    except ValidationError as error:
        faults = [fault for item in error.errors(include_input=False) for fault in _faults(item)]
        lines = [f"{fault['path']}: {fault['message']}" for fault in faults]
        raise ConfigError(
            "the cluster config is invalid:\n  " + "\n  ".join(lines),
            code="cluster_config_invalid",
            faults=faults,
        ) from error


def _faults(item: ErrorDetails) -> list[dict[str, str]]:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "combination":
        found: list[tuple[str, str]] = item.get("ctx", {})["faults"]
        return [{"path": where, "message": message} for where, message in found]
    if item["type"] == "extra_forbidden":
        return [{"path": path, "message": _unknown(item["loc"])}]
    message = item["msg"].removeprefix("Value error, ")
    return [{"path": path or "the file", "message": message}]


def _unknown(loc: tuple[int | str, ...]) -> str:
    """What to write in place of a key that there is not."""
    known = _keys_at(loc[:-1])
    near = get_close_matches(str(loc[-1]), known, n=1)
    fix = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"there is no such key; {fix}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at ``loc``."""
    section: type[BaseModel] = ClusterConfig
    for part in loc:
        field = section.model_fields.get(str(part))
        if field is None:  # an index of a list: the section is already its element's
            continue
        section = next(iter(_sections(field.annotation)), section)
    return list(section.model_fields)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Section classes inside a type such as ``tuple[Node, ...]`` or ``Ingress | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner: tuple[Any, ...] = getattr(annotation, "__args__", ())
    return [found for one in inner for found in _sections(one)]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, ``cluster/agentcy.schema.json``."""
    schema = ClusterConfig.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def for_processes(config: ClusterConfig) -> dict[str, Any]:
    """What the platform's own processes read of the config, as plain data without defaults.

    Machines and targets are left out, so that a change of those restarts no process.
    """
    sections = {part.partition(".")[0] for part in config.parts()}
    return config.model_dump(mode="json", exclude_defaults=True, include=sections)


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text()
    except OSError as error:
        raise ConfigError(
            f"cannot read the cluster config {path!r}: {error.strerror or error}; "
            "set AGENTCY_CLUSTER_CONFIG to a readable file"
        ) from error
