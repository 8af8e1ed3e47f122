"""``provider:model`` → a model. What is configured, what the default is, and why."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping

from agentcy_ray.core.errors import InvalidError, ModelUnavailableError
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.llm import providers
from agentcy_ray.llm.hosted import HostedModel, Sleep
from agentcy_ray.llm.local import (
    LOCAL_PROVIDERS,
    LocalModel,
    LocalModels,
    LocalState,
    NoLocalModels,
    library_model,
)
from agentcy_ray.llm.metered import MeteredModel
from agentcy_ray.llm.model import Model, Record
from agentcy_ray.llm.offline import OFFLINE_REFERENCE, OfflineModel
from agentcy_ray.llm.scripted import ScriptedModel
from agentcy_ray.llm.table import ModelTable, PricedTokens

Factory = Callable[[str], Model]
KEPT = 256
"""Models that are kept; whoever calls ``/v1`` may name any that a provider might have."""


class ModelChoice(Record):
    """A provider that this install knows, for ``/health``, the console and ``doctor``."""

    provider: str
    available: bool
    default_reference: str
    default: bool


class Models:
    """All models of this install. One object a process; those used of late are kept and shared.

    Args:
        settings: keys, URLs and retry limits.
        metrics: of the process; the models' turns are counted there.
        sleep: how a retry waits; tests hand in one that records.
        local: models that the cluster serves itself; none without a cluster.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        *,
        sleep: Sleep = asyncio.sleep,
        local: LocalModels | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sleep = sleep
        self._local = local or NoLocalModels()
        self._table = ModelTable.load(settings.llm_models_file)
        self._kept: OrderedDict[str, Model] = OrderedDict()
        self._factories: Mapping[str, Factory] = {
            **{name: self._hosted(name) for name in self._table.providers},
            **{name: self._served(name) for name in LOCAL_PROVIDERS},
            "offline": self._offline,
            "scripted": self._scripted,
        }

    def default_reference(self) -> str:
        """The model of agents that name none; ``offline:extractive`` when no provider is set up."""
        provider = providers.configured_provider(self._settings)
        if provider == "local":
            first = next((one.name for one in self.local_models("chat")), None)
            model = self._settings.llm_model or first
            return OFFLINE_REFERENCE if model is None else f"local:{model}"
        if not providers.available(self._settings, provider):
            return OFFLINE_REFERENCE
        model = self._settings.llm_model or self._table.providers[provider].default
        return f"{provider}:{model}"

    def resolve(self, reference: str) -> Model:
        """The model behind ``provider:model``.

        Raises:
            InvalidError: the form is wrong, the provider is unknown or not set up, or the model is
                a scripted one where those are refused.
        """
        kept = self._kept.get(reference)
        if kept is not None:
            self._kept.move_to_end(reference)
            return kept
        provider, colon, model = reference.partition(":")
        factory = self._factories.get(provider)
        if not colon or not model or factory is None:
            raise InvalidError(
                f"{reference!r} is no model; write provider:model with one of the providers "
                f"{', '.join(sorted(self._factories))}",
                errors=[{"loc": ["model"], "message": "unknown provider or missing model name"}],
            )
        found = factory(model)
        if self._metrics is not None:
            found = MeteredModel(found, self._metrics)
        if provider != "scripted":  # their names are endless
            self._kept[reference] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def local_models(self, task: str) -> tuple[LocalModel, ...]:
        """Models of the cluster config for ``chat`` or ``embed``, in its order."""
        return tuple(one for one in self._local.listed() if one.task == task)

    @property
    def local_listed(self) -> bool:
        """Whether the cluster config lists any model."""
        return bool(self._local.listed())

    async def local_states(self) -> tuple[LocalState, ...]:
        """How each model of the cluster config is."""
        return await self._local.states()

    async def require_local(self) -> None:
        """For ``/health``.

        Raises:
            ModelUnavailableError: some are not ready; the message says which and why.
        """
        away = [one for one in await self.local_states() if one.state != "ready"]
        if away:
            raise ModelUnavailableError(
                "; ".join(f"{one.name} is {one.state}: {one.message}" for one in away),
                models=[one.name for one in away],
            )

    def price(self, reference: str, tokens: PricedTokens) -> float | None:
        """What ``tokens`` cost in US dollars; None when the model has no known price."""
        provider, _, model = reference.partition(":")
        return self._table.cost(provider, model, tokens)

    def references(self) -> list[str]:
        """Models that can be named now: each provider's default, those of the model table, the
        offline one, those of the cluster. A provider may serve more.
        """
        usable = [row for row in self.describe() if row.available]
        providers_ = {row.provider for row in usable}
        named = [name for name in self._table.models if name.partition(":")[0] in providers_]
        hosted = [row.default_reference for row in usable if row.provider != "local"]
        served = [f"local:{one.name}" for one in self.local_models("chat")]
        return list(dict.fromkeys([*hosted, *named, *served]))

    def describe(self) -> list[ModelChoice]:
        """Every provider with whether it can be used, the default one marked."""
        default = self.default_reference()
        rows = [
            ModelChoice(
                provider=name,
                available=providers.available(self._settings, name),
                default_reference=f"{name}:{row.default}",
                default=default.startswith(f"{name}:"),
            )
            for name, row in self._table.providers.items()
        ]
        rows.append(
            ModelChoice(
                provider="offline",
                available=True,
                default_reference=OFFLINE_REFERENCE,
                default=default == OFFLINE_REFERENCE,
            )
        )
        chats = self.local_models("chat")
        if chats:
            rows.append(
                ModelChoice(
                    provider="local",
                    available=True,
                    default_reference=f"local:{chats[0].name}",
                    default=default.startswith("local:"),
                )
            )
        return rows

    def _hosted(self, provider: str) -> Factory:
        def make(model: str) -> Model:
            if not providers.available(self._settings, provider):
                raise InvalidError(
                    f"provider {provider!r} is not set up; {_NEEDS[provider]}, or choose one of "
                    f"{', '.join(self._usable())}",
                    errors=[{"loc": ["model"], "message": f"{provider} is not set up"}],
                )
            return HostedModel(self._settings, self._table, provider, model, sleep=self._sleep)

        return make

    def _served(self, provider: str) -> Factory:
        def make(model: str) -> Model:
            name, colon, _ = model.partition(":")
            known = {one.name: one for one in self.local_models("chat")}
            found = known.get(name)
            if found is None or (colon and not found.adapters):
                there = ", ".join(f"local:{one}" for one in known) or "none"
                raise InvalidError(
                    f"no chat model {model!r} is served by this cluster, there are: {there}; list "
                    "it under models in the cluster config",
                    errors=[{"loc": ["model"], "message": "not in the cluster config"}],
                )
            return HostedModel(
                self._settings,
                self._table,
                provider,
                model,
                sleep=self._sleep,
                build=lambda: library_model(self._local, provider, model),
                window=found.window,
            )

        return make

    def _usable(self) -> list[str]:
        return [row.provider for row in self.describe() if row.available]

    def _offline(self, model: str) -> Model:
        if f"offline:{model}" != OFFLINE_REFERENCE:
            raise InvalidError(
                f"there is no offline model {model!r}; the one that ships is {OFFLINE_REFERENCE}",
                errors=[{"loc": ["model"], "message": "unknown offline model"}],
            )
        return OfflineModel()

    def _scripted(self, model: str) -> Model:
        if not self._settings.agentcy_features_demo:
            raise InvalidError(
                "scripted models are for tests and demonstrations; set AGENTCY_FEATURES_DEMO=true "
                "to allow them",
                errors=[{"loc": ["model"], "message": "scripted models are refused here"}],
            )
        return ScriptedModel.parse(model)


_NEEDS: Mapping[str, str] = {
    "anthropic": "set ANTHROPIC_API_KEY",
    "openai": "set OPENAI_API_KEY",
    "openai_compatible": "set LLM_BASE_URL",
    "bedrock": "set LLM_PROVIDER=bedrock or AWS_REGION",
    "vertex": "set LLM_PROVIDER=vertex or VERTEX_PROJECT",
}
