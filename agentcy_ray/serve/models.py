"""The Serve applications of the cluster's own models, one each and none with a route."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
import structlog
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.schema import LoggingConfig

from agentcy_ray.core.errors import ConfigError, ModelUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.cluster_config.models import ServedModel
from agentcy_ray.runtime.llm_config import application_name, llm_config
from agentcy_ray.runtime.model_fitness import has_vllm, refusal
from agentcy_ray.runtime.render.serve import QUIET
from agentcy_ray.serve.model_server import ModelServer, deployment_options

log = structlog.get_logger(__name__)

_LOOK_SECS = 0.5
Say = Callable[[str], None]


def build_model(model: ServedModel, *, loopback: bool, ended: threading.Event | None = None) -> Any:
    """The application of a model. Its options take a task that loads vLLM, half a minute.

    Args:
        model: of the cluster config.
        loopback: keep the engine's own sockets on this machine.
        ended: set it to give up.

    Raises:
        ModelUnavailableError: vLLM is not installed where Ray ran the task, or it was given up.
        ConfigError: the engine does not take an argument.
    """
    config = llm_config(model)
    if loopback:
        config["runtime_env"]["env_vars"] |= {"VLLM_HOST_IP": "127.0.0.1"}
    options = _options(model, config, ended or threading.Event())
    bundles: list[Any] = options.get("placement_group_bundles") or []
    if model.labels and bundles:
        options["placement_group_bundle_label_selector"] = [dict(model.labels)] * len(bundles)
    deployment: Any = serve.deployment(ModelServer, **options)
    return deployment.options(logging_config=LoggingConfig(**QUIET)).bind(config)


def _options(model: ServedModel, config: dict[str, Any], ended: threading.Event) -> dict[str, Any]:
    task: Any = ray.remote(
        num_cpus=0,
        max_calls=1,  # the process goes, with the half gigabyte that vLLM takes in it
        # Our own hook of the workers stays; Ray's only loads vLLM earlier.
        runtime_env={"env_vars": {"RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0"}},
    )(deployment_options)
    asked = task.remote(config)
    while not ray.wait([asked], timeout=_LOOK_SECS)[0]:
        if ended.is_set():
            ray.cancel(asked, force=True)
            raise ModelUnavailableError(f"{model.name} was given up: the platform stops")
    try:
        options: dict[str, Any] = ray.get(asked)
    except RayTaskError as error:
        cause: Any = error.cause
        if isinstance(cause, ImportError):
            raise ModelUnavailableError(
                f"{model.name} cannot be served: {refusal(model, vllm=False, gpus=0)} ({cause})",
                model=model.reference,
            ) from error
        raise ConfigError(
            f"models: {model.name}: {cause}; mend it in the cluster config",
            code="cluster_config_invalid",
        ) from error
    return options


class ModelDeployer:
    """Deploys the models beside a platform that serves already; their weights take minutes."""

    def __init__(self, settings: Settings, config: ClusterConfig, say: Say) -> None:
        self._settings = settings
        self._models = config.models
        self._say = say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._deploy, name="models", daemon=True)

    def start(self) -> None:
        """Say which models cannot be served; deploy the others in the background."""
        joined = self._settings.ray_address is not None
        gpus = float(ray.cluster_resources().get("GPU", 0))
        wanted: list[ServedModel] = []
        for model in self._models:
            # On a cluster that was joined, nodes may still come, and have what this one lacks.
            reason = None if joined else refusal(model, vllm=has_vllm(), gpus=gpus)
            if reason is None:
                wanted.append(model)
            else:
                self._say(f"model {model.name} is not served: {reason}")
        self._models = tuple(wanted)
        if wanted:
            names = ", ".join(model.reference for model in wanted)
            self._say(f"loading models in the background: {names}; see `agentcy status`")
            self._thread.start()

    def stop(self) -> None:
        """Deploy no more; returns when nothing is under way."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _deploy(self) -> None:
        loopback = self._settings.ray_address is None
        for model in self._models:
            if self._ended.is_set():
                return
            try:
                built = build_model(model, loopback=loopback, ended=self._ended)
                target = serve.RunTarget(built, name=application_name(model), route_prefix=None)
                serve.run_many([target], wait_for_applications_running=False)
            except (ModelUnavailableError, ConfigError, RayError, RuntimeError) as error:
                if not self._ended.is_set():
                    log.error("a model is not served", model=model.name, reason=str(error))
                    self._say(f"model {model.name} is not served: {error}")
