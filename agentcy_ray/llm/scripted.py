"""``scripted:…``: a model whose name is its behaviour, for tests, benchmarks and the demo.

The name is a comma-separated list of ``key=value``; values are percent-encoded.

===============  ==================================================================================
``ttft`` ``itl``  milliseconds before the first token and between tokens (0)
``tokens``       words of the final answer when ``text`` is absent (16)
``text``         the final answer
``say``          words streamed in every turn before its tool calls
``think``        reasoning streamed in every turn before its words
``tools``        calls: ``+`` joins calls of one turn, ``>`` starts the next turn, ``*n`` repeats a
                 call. A call is ``connector.tool``, ``connector@source.tool`` or a meta-tool's name
``args.<call>``  JSON arguments of the calls of that name; ``{}`` when absent
``repeat``       ``true``: begin the turns anew for ever instead of answering
``obey``         ``true``: carry out ``CALL connector.tool {json}`` found in tool results, as a
                 model that has been talked round would
``fail``         fail with ``llm_error`` after this many tokens of the answer
``usage``        tokens that every turn is said to have read, instead of an estimate
``seed``         chooses the words (0)
===============  ==================================================================================

The same name and input give the same events.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import quote, unquote

from agentcy_ray.core.errors import InvalidError, ModelError
from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import (
    Done,
    ModelEvent,
    ModelRequest,
    Part,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCallReady,
    ToolReply,
    ToolUse,
    estimate_tokens,
    refuse_json,
)
from agentcy_ray.llm.model import Message as ModelMessage

_INJECTED = re.compile(r"CALL ([a-z][a-z0-9_-]*\.[a-z0-9_]+) (\{[^{}]*\})")
_VOCABULARY = (
    "agent bucket cluster commit deploy edge file graph index job key ledger merge node owner "
    "package query realm service token update value worker"
)


@dataclass(frozen=True)
class ScriptedModel:
    """A parsed script."""

    name: str
    turns: tuple[tuple[str, ...], ...] = ()
    """Names of the calls of each turn."""
    args: Mapping[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    text: str | None = None
    say: str = ""
    think: str = ""
    tokens: int = 16
    ttft_ms: float = 0
    itl_ms: float = 0
    repeat: bool = False
    obey: bool = False
    fail_after: int | None = None
    usage: int | None = None
    seed: int = 0
    _ready: dict[int, tuple[ToolUse, ...]] = field(
        default_factory=dict[int, tuple[ToolUse, ...]], compare=False, repr=False
    )
    """Calls of turns, once made."""

    @classmethod
    @lru_cache(64)  # many runs at a time speak to the same one
    def parse(cls, name: str) -> ScriptedModel:
        """Read the part after ``scripted:``.

        Raises:
            InvalidError: a key is unknown or a value cannot be read.
        """
        values: dict[str, str] = {}
        args: dict[str, dict[str, Any]] = {}
        try:
            for item in filter(None, name.split(",")):
                key, _, raw = item.partition("=")
                value = unquote(raw)
                if key.startswith("args."):
                    args[unquote(key.removeprefix("args."))] = dict(json.loads(value))
                elif key in _KEYS:
                    values[key] = value
                else:
                    raise ValueError(f"unknown key {key!r}")
            return cls(
                name=name,
                turns=_turns(values.get("tools", "")),
                args=args,
                text=values.get("text"),
                say=values.get("say", ""),
                think=values.get("think", ""),
                tokens=int(values.get("tokens", "16")),
                ttft_ms=float(values.get("ttft", "0")),
                itl_ms=float(values.get("itl", "0")),
                repeat=values.get("repeat") == "true",
                obey=values.get("obey") == "true",
                fail_after=int(values["fail"]) if "fail" in values else None,
                usage=int(values["usage"]) if "usage" in values else None,
                seed=int(values.get("seed", "0")),
            )
        except (ValueError, TypeError) as error:
            raise InvalidError(
                f"scripted:{name} cannot be read: {error}; write key=value pairs with the keys "
                f"{', '.join(_KEYS)} or args.<call>",
                errors=[{"loc": ["model"], "message": str(error)}],
            ) from error

    @property
    def reference(self) -> str:
        """``scripted:<script>``."""
        return f"scripted:{self.name}"

    @property
    def window(self) -> int:
        """Context window in tokens."""
        return 200_000

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        """One turn; see ``Model.stream``."""
        refuse_json(request, self.reference)
        turn = _turns_taken(request)
        await asyncio.sleep(self.ttft_ms / 1000)
        calls = self._calls(turn, request)
        words = self._answer(request) if not calls else self.say
        pieces = re.findall(r"\S+\s*", words)
        cut = not calls and request.max_tokens is not None and len(pieces) > request.max_tokens
        if cut:
            pieces = pieces[: request.max_tokens]
            words = "".join(pieces)
        parts: list[Part] = []
        if self.think:
            parts.append(Thinking(text=self.think, provider="scripted"))
            for piece in re.findall(r"\S+\s*", self.think):
                yield ThinkingDelta(piece)
        if words:
            parts.append(Text(text=words))
        for count, piece in enumerate(pieces):
            if self.fail_after is not None and count >= self.fail_after and not calls:
                raise ModelError(f"{self.reference} fails as it was told to", model="scripted")
            if count and self.itl_ms:
                await asyncio.sleep(self.itl_ms / 1000)
            yield TextDelta(piece)
        for call in calls:
            yield ToolCallReady(call)
            parts.append(call)
        message = ModelMessage(role="assistant", parts=tuple(parts))
        reason = "max_tokens" if cut else "tool_calls" if calls else "end_turn"
        yield Done(message, self._usage(request, parts), reason)

    def _usage(self, request: ModelRequest, parts: Sequence[Part]) -> Usage:
        if self.usage is not None:
            return Usage(in_tokens=self.usage, out_tokens=len(parts))
        read = sum(estimate_tokens(_text(part)) for said in request.messages for part in said.parts)
        return Usage(in_tokens=read, out_tokens=sum(estimate_tokens(_text(part)) for part in parts))

    def _calls(self, turn: int, request: ModelRequest) -> Sequence[ToolUse]:
        if self.obey:
            injected = _injected(request)
            if injected:
                return [
                    _call(turn, index, name, args) for index, (name, args) in enumerate(injected)
                ]
        if self.repeat and self.turns:
            names = self.turns[turn % len(self.turns)]
        else:
            names = self.turns[turn] if turn < len(self.turns) else ()
        if turn not in self._ready:
            self._ready[turn] = tuple(
                _call(turn, index, name, self.args.get(name, {}))
                for index, name in enumerate(names)
            )
        return self._ready[turn]

    def _answer(self, request: ModelRequest) -> str:
        if self.text is not None:
            return self.text
        said = "".join(message.model_dump_json() for message in request.messages)
        digest = blake2b(f"{self.seed}:{said}".encode(), digest_size=8).digest()
        rng = random.Random(int.from_bytes(digest, "big"))
        words = _VOCABULARY.split()
        return " ".join(rng.choice(words) for _ in range(self.tokens))


def _text(part: Part) -> str:
    return str(part.args) if isinstance(part, ToolUse) else part.text


_KEYS = (
    "ttft", "itl", "tokens", "text", "say", "think", "tools", "repeat", "obey", "fail", "usage",
    "seed",
)  # fmt: skip


def scripted_reference(
    *,
    tools: str = "",
    args: Mapping[str, Mapping[str, Any]] | None = None,
    **values: str | float | bool,
) -> str:
    """The reference of a script: ``scripted_reference(tools="git.log*2", text="Done.")``.

    Args:
        tools: the calls, as in the module's table.
        args: arguments by call name.
        values: any other key of the table.
    """
    items = [f"tools={quote(tools, safe='+>*@._-')}"] if tools else []
    items += [
        f"args.{quote(name, safe='@._-')}={quote(json.dumps(value), safe='')}"
        for name, value in (args or {}).items()
    ]
    items += [
        f"{key}={quote('true' if value is True else str(value), safe='')}"
        for key, value in values.items()
        if value is not False
    ]
    return "scripted:" + (",".join(items) or "seed=0")


def _turns(text: str) -> tuple[tuple[str, ...], ...]:
    turns: list[tuple[str, ...]] = []
    for turn in filter(None, text.split(">")):
        names: list[str] = []
        for call in turn.split("+"):
            name, _, times = call.partition("*")
            names += [name] * int(times or "1")
        turns.append(tuple(names))
    return tuple(turns)


def _call(turn: int, index: int, name: str, args: dict[str, Any]) -> ToolUse:
    """A call of a meta-tool, or of a connector's tool through ``execute_connector_tool``."""
    call_id = f"call_{turn}_{index}"
    head, dot, tool = name.rpartition(".")
    if not dot:
        return ToolUse(id=call_id, name=name, args=args)
    connector, at, source = head.partition("@")
    wrapped: dict[str, Any] = {"connector": connector, "tool": tool, "args": args}
    if at:
        wrapped["source"] = source
    return ToolUse(id=call_id, name="execute_connector_tool", args=wrapped)


def _turns_taken(request: ModelRequest) -> int:
    """Turns since the last words of a person."""
    taken = 0
    for message in reversed(request.messages):
        if message.role == "user" and message.text:
            break
        taken += message.role == "assistant"
    return taken


def _injected(request: ModelRequest) -> list[tuple[str, dict[str, Any]]]:
    """Orders in the tool results of the turn before."""
    if not request.messages:
        return []
    texts = [part.text for part in request.messages[-1].parts if isinstance(part, ToolReply)]
    return [
        (name, dict(json.loads(args)))
        for text in texts
        for name, args in _INJECTED.findall(text.replace('\\"', '"'))
    ]
