"""A model of a provider: pydantic-ai's direct streaming, with our retries around it.

Retries happen only before the first event, on 429, 5xx and transport failures, and never sooner
than the provider asked. After the first event a failure is final: what was streamed has been seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import (
    Done,
    Message,
    ModelEvent,
    ModelRequest,
    estimate_tokens,
    refuse_json,
)
from agentcy_ray.llm.table import ModelTable, PricedTokens

if TYPE_CHECKING:
    from pydantic_ai.models import Model as LibraryModel
    from pydantic_ai.models import StreamedResponse

    from agentcy_ray.core.settings import Settings

Sleep = Callable[[float], Awaitable[None]]


class HostedModel:
    """One model of one provider."""

    def __init__(
        self,
        settings: Settings,
        table: ModelTable,
        provider: str,
        model: str,
        *,
        sleep: Sleep = asyncio.sleep,
        build: Callable[[], LibraryModel[Any]] | None = None,
        window: int | None = None,
    ) -> None:
        """A model of a provider.

        Args:
            settings: keys, URLs and retry limits.
            table: windows and prices.
            provider: its name.
            model: the model's name there.
            sleep: how a retry waits.
            build: makes the library's model where no builder of ``providers`` does.
            window: where the table does not know it.
        """
        self._settings = settings
        self._table = table
        self._provider = provider
        self._model = model
        self._sleep = sleep
        self._build = build
        self._window = window
        self._library: LibraryModel[Any] | None = None
        self._building = asyncio.Lock()

    @property
    def reference(self) -> str:
        """``provider:model``."""
        return f"{self._provider}:{self._model}"

    @property
    def window(self) -> int:
        """Context window in tokens."""
        return self._window or self._table.window(self._provider, self._model)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        """One turn; see ``Model.stream``."""
        library = await self._loaded()
        from agentcy_ray.llm import faults, translate

        if not translate.can_answer_in_json(request, library):
            refuse_json(request, self.reference)
        attempt = 0
        while True:
            started = False
            try:
                async with aclosing(self._attempt(library, request)) as events:
                    async for event in events:
                        started = True
                        yield event
                return
            except Exception as error:
                wait = None if started else faults.retry_wait(error, attempt)
                if wait is None or attempt >= self._settings.llm_max_retries:
                    raise faults.ours(error, self.reference) from error
            attempt += 1
            await self._sleep(wait)

    async def _loaded(self) -> LibraryModel[Any]:
        async with self._building:
            if self._library is None:
                # Loading an SDK takes a second or more; the event loop must not stand still.
                self._library = await asyncio.to_thread(self._load)
            return self._library

    def _load(self) -> LibraryModel[Any]:
        from agentcy_ray.llm import faults, providers, translate

        del faults, translate  # only loaded here, so that `stream` finds them ready
        if self._build is not None:
            return self._build()
        return providers.build(self._settings, self._provider, self._model)

    async def _attempt(
        self, library: LibraryModel[Any], request: ModelRequest
    ) -> AsyncGenerator[ModelEvent]:
        from pydantic_ai.direct import model_request_stream

        from agentcy_ray.llm import providers, translate

        settings = translate.settings_of(
            request,
            first_token_secs=self._settings.llm_timeout_secs,
            quiet_sdk=self._provider in providers.TAKES_MAX_RETRIES,
        )
        async with model_request_stream(
            library,
            translate.messages_of(request),
            model_settings=settings,
            model_request_parameters=translate.parameters_of(request),
        ) as stream:
            finished = False
            try:
                async for event in stream:
                    translated = translate.event_of(event)
                    if translated is not None:
                        yield translated
                finished = True
            finally:
                if not finished:
                    await stream.cancel()
            response = stream.get()
            message = translate.message_of(response)
            yield Done(
                message=message,
                usage=self._usage(stream, request, message),
                stop_reason=translate.stop_reason_of(response, message),
            )

    def _usage(self, stream: StreamedResponse, request: ModelRequest, message: Message) -> Usage:
        counted = stream.usage
        if counted.input_tokens or counted.output_tokens:
            tokens = PricedTokens(
                input_tokens=counted.input_tokens,
                output_tokens=counted.output_tokens,
                cache_read_tokens=counted.cache_read_tokens,
                cache_write_tokens=counted.cache_write_tokens,
            )
        else:
            tokens = PricedTokens(
                input_tokens=estimate_tokens(request.model_dump_json()),
                output_tokens=estimate_tokens(message.model_dump_json()),
            )
        estimated = not (counted.input_tokens or counted.output_tokens)
        cost = self._table.cost(self._provider, self._model, tokens)
        return tokens.usage(cost, estimated=estimated)
