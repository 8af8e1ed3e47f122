"""Models that the cluster serves, from any process of it: through deployment handles.

A handle reaches the replicas by Ray's own authenticated calls. No route of the HTTP ingress leads
to them, so whoever wants one goes through the API's gates.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from time import monotonic
from typing import Any, cast

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from agentcy_ray.core.errors import ModelError, ModelUnavailableError
from agentcy_ray.llm.local import UNKNOWN_WINDOW, LocalAnswer, LocalModel, LocalState
from agentcy_ray.retrieval.embedder import Matrix
from agentcy_ray.runtime.cluster_config.models import ServedModel
from agentcy_ray.runtime.llm_config import DEPLOYMENT, application_name
from agentcy_ray.runtime.model_fitness import has_vllm, refusal

STATE_SECS = 5.0
"""How long a model that was ready is taken to be so without asking Serve again."""
STATES: Mapping[ApplicationStatus, str] = {
    ApplicationStatus.RUNNING: "ready",
    ApplicationStatus.NOT_STARTED: "starting",
    ApplicationStatus.DEPLOYING: "starting",
}
"""Any other status is ``failed``."""


class ServedModels:
    """``LocalModels`` over Serve, and the embedding models beside them."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = {model.name: model for model in models}
        self._handles: dict[str, Any] = {}
        self._ready_until: dict[str, float] = {}

    def listed(self) -> tuple[LocalModel, ...]:
        """All of the cluster config, in its order."""
        return tuple(
            LocalModel(
                name=one.name,
                task=one.task,
                window=one.max_model_len or UNKNOWN_WINDOW,
                adapters=one.lora is not None,
            )
            for one in self._models.values()
        )

    async def states(self) -> tuple[LocalState, ...]:
        """How each of them is; asks Serve's controller once."""
        if not self._models:
            return ()
        applications = await asyncio.to_thread(_applications)
        gpus = await asyncio.to_thread(_gpus)
        return tuple(
            _state(one, applications.get(application_name(one)), gpus)
            for one in self._models.values()
        )

    async def complete(self, name: str, body: Mapping[str, Any]) -> LocalAnswer:
        """Send a chat request to ``NAME`` or ``NAME:ADAPTER``; see ``LocalModels.complete``."""
        base, colon, _ = name.partition(":")
        handle = await self._handle(base)
        asked = handle.options(
            method_name="complete", stream=True, multiplexed_model_id=name if colon else ""
        ).remote({**body, "model": name})
        answer = _items(base, asked)
        try:
            status: int = await anext(answer)
        except BaseException:
            await answer.aclose()
            raise
        return LocalAnswer(status, answer)

    async def embed(self, name: str, texts: Sequence[str]) -> Matrix:
        """Vectors of ``texts``, shape (texts, dim), rows of unit length; long texts are cut.

        Raises:
            ModelUnavailableError: the model is away.
            ModelError: the engine failed.
        """
        handle = await self._handle(name)
        vectors: Matrix = await _call(name, handle.embed.remote(list(texts)))
        return vectors

    async def facts(self, name: str) -> dict[str, Any]:
        """What a replica says of an embedding model: ``dim``, ``max_tokens``, ``revision``."""
        handle = await self._handle(name)
        found: dict[str, Any] = await _call(name, handle.facts.remote())
        return found

    async def _handle(self, name: str) -> Any:
        """The handle of a model that is ready.

        Raises:
            ModelUnavailableError: it is not; the message says why.
        """
        model = self._models.get(name)
        if model is None:
            raise ModelError(
                f"no model {name!r} is served by this cluster, there are: "
                f"{', '.join(self._models) or 'none'}; list it under models in the cluster config"
            )
        if monotonic() >= self._ready_until.get(name, 0):
            await self._require(model)
        return self._handles[name]

    async def _require(self, model: ServedModel) -> None:
        overview = (await asyncio.to_thread(_applications)).get(application_name(model))
        if overview is not None and _answers(overview):
            if model.name not in self._handles:
                self._handles[model.name] = await asyncio.to_thread(
                    serve.get_app_handle, application_name(model)
                )
            self._ready_until[model.name] = monotonic() + STATE_SECS
            return
        found = _state(model, overview, await asyncio.to_thread(_gpus))
        raise ModelUnavailableError(
            f"{model.reference} is {found.state}: {found.message}",
            model=model.reference,
            state=found.state,
        )


def _applications() -> dict[str, ApplicationStatusOverview]:
    try:
        return serve.status().applications
    except (RayError, RayServeException) as error:
        raise ModelUnavailableError(
            "Ray Serve does not answer; it is restarted, repeat in a moment"
        ) from error


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def _answers(overview: ApplicationStatusOverview) -> bool:
    """Whether requests are taken, also while replicas are replaced one after the other."""
    if overview.status == ApplicationStatus.RUNNING:
        return True
    deployment = overview.deployments.get(DEPLOYMENT)
    if deployment is None:
        return False
    # Declared as keyed by an enumeration; what comes are its values.
    counts = cast("dict[str, int]", deployment.replica_states)
    return counts.get("RUNNING", 0) > 0


def _state(
    model: ServedModel, overview: ApplicationStatusOverview | None, gpus: float
) -> LocalState:
    def state(word: Any, message: str = "") -> LocalState:
        return LocalState(name=model.name, task=model.task, state=word, message=message)

    if overview is None:
        reason = refusal(model, vllm=has_vllm(), gpus=gpus)
        if reason is not None:
            return state("refused", reason)
        return state(
            "starting",
            "its application is being built; repeat in a minute, or read why not in the log of "
            "`agentcy up`",
        )
    if _answers(overview):
        return state("ready")
    word = STATES.get(overview.status, "failed")
    if word == "starting":
        return state(word, "its replicas start and load weights; repeat in a few minutes")
    deployment = overview.deployments.get(DEPLOYMENT)
    said = (deployment.message if deployment else "") or overview.message
    last = said.strip().splitlines()[-1:] or ["its replicas do not start"]
    return state(word, f"{last[0][:400]}; mend the model in the cluster config and start again")


async def _items(name: str, asked: Any) -> AsyncGenerator[Any]:
    """What a replica sends; a reader who leaves ends the request there."""
    finished = False
    try:
        async for item in asked:
            yield item
        finished = True
    except (RayError, RayServeException) as error:
        raise _failure(name, error) from error
    finally:
        if not finished:
            asked.cancel()


async def _call(name: str, asked: Any) -> Any:
    try:
        return await asked
    except (RayError, RayServeException) as error:
        raise _failure(name, error) from error


def _failure(name: str, error: Exception) -> ModelError:
    if isinstance(error, RayTaskError):
        cause: Any = getattr(error, "cause", None) or error
        if isinstance(cause, ModelError):
            return cause
        return ModelError(f"the engine of {name} failed: {cause}"[:500], model=name)
    return ModelUnavailableError(
        f"the replica that served {name} was lost; Serve starts another, repeat the message",
        model=name,
    )
