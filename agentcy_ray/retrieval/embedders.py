"""From the reference of a model to its ``Embedder``.

========================  ========================================================================
``local:NAME``            sentence-transformers: the bundled model, a folder, or a name of the hub
``vllm:NAME``             a model of the cluster config with task embed
``openai:NAME``           OpenAI
``openai_compatible:…``   the server of ``EMBEDDING_BASE_URL``
``scripted:…``            costs nothing; only where demonstrations are allowed
========================  ========================================================================
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.retrieval.embedder import MeteredEmbedder
from agentcy_ray.retrieval.scripted_embedder import Script, ScriptedEmbedder

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.retrieval.served_embedder import ServedVectors

Device = Literal["auto", "cpu", "cuda"]
SCHEMES = ("local", "vllm", "openai", "openai_compatible", "scripted")
REMOTE = frozenset({"vllm", "openai", "openai_compatible"})
"""Schemes whose model runs elsewhere: a process of ours only asks."""


def scheme_of(reference: str, settings: Settings) -> str:
    """The part before the colon of a reference that may be used here.

    Raises:
        InvalidError: it has no known scheme or no name, or is a script that cannot be read or is
            refused here.
    """
    scheme, _, name = reference.partition(":")
    if scheme not in SCHEMES or not name:
        raise InvalidError(
            f"{reference!r} is no embedding model; write one of "
            f"{', '.join(f'{known}:<model>' for known in SCHEMES[:-1])}",
            errors=[{"loc": ["embedder"], "message": "unknown kind of reference"}],
        )
    if scheme == "scripted" and not settings.agentcy_features_demo:
        raise InvalidError(
            "scripted embedders are for tests and demonstrations; set AGENTCY_FEATURES_DEMO=true "
            "to allow them",
            errors=[{"loc": ["embedder"], "message": "scripted embedders are refused here"}],
        )
    if scheme == "scripted":
        Script.read(name)
    return scheme


async def load_embedder(
    reference: str,
    settings: Settings,
    *,
    threads: int | None = None,
    tokens: int | None = None,
    device: Device | None = None,
    gpus: int = 1,
    served: ServedVectors | None = None,
) -> MeteredEmbedder:
    """The embedder of ``reference`` in this process; a model of its own is loaded on a thread.

    Args:
        reference: see the module.
        settings: keys, base URLs, batch size and device.
        threads: CPU cores that a local model uses; None = all that this process may run on.
        tokens: of one call of a local model, padding included; None = what suits the device.
        device: where a local model runs; None = as ``EMBEDDING_DEVICE`` says.
        gpus: how many GPUs a local model uses, where it runs on any.
        served: the models that the cluster serves; None = it serves none.

    Raises:
        InvalidError: see ``scheme_of``; or a key, a URL or such a model is not there.
        EmbedderUnavailableError: the model cannot be loaded, or its server is away.
        EmbedderRefusedError: its server does not know it, or refuses the key.
    """
    scheme = scheme_of(reference, settings)
    name = reference.partition(":")[2]
    match scheme:
        case "local":
            from agentcy_ray.retrieval.local_embedder import LocalEmbedder

            return await asyncio.to_thread(
                LocalEmbedder.load,
                settings,
                threads,
                reference=reference,
                tokens=tokens,
                device=device,
                gpus=gpus,
            )
        case "scripted":
            return ScriptedEmbedder(Script.read(name))
        case "vllm":
            from agentcy_ray.retrieval.served_embedder import open_served

            if served is None:
                raise InvalidError(
                    f"{reference}: no model is served here; list it under models of the cluster "
                    "config with task: embed, or choose a local: model",
                    errors=[{"loc": ["embedder"], "message": "not served"}],
                )
            return await open_served(reference, name, served)
        case _:
            from agentcy_ray.retrieval.openai_embedder import open_openai

            return await open_openai(reference, settings)
