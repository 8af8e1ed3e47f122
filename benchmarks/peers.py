"""The peers of the governed tool call, each at its best: ``python -m benchmarks.peers NAME``.

Every peer runs the same work in a process of its own: concurrent runs of a scripted model without
network, each turn with parallel calls of a tool that does nothing and answers 200 bytes, and an
answer at the end. None of them has a policy, an audit log, a run log or an isolated session.

Their settings are the cheapest that keep them what they are: tools are coroutines, one agent and
one compiled graph serve all runs, uvloop, no tracing, telemetry, callbacks, checkpoints or
streaming, no limits beyond the default, and what was imported is frozen out of garbage collection.
The work is done once in small before it is measured.

- ``pydantic_ai``: ``FunctionModel`` that states its usage, which is estimated at a cost otherwise.
- ``langgraph_toolnode``: ``ToolNode`` alone, called with the calls of a turn; no model, no loop, no
  history.
- ``langgraph_agent``: the prebuilt ReAct agent with a chat model that returns ready messages;
  version ``v1``, which runs the calls of a turn in one node and is the faster one.
- ``openai_agents``: ``Runner`` with a ``Model`` that returns ready items.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RUNS, TURNS, CALLS = 40, 10, 8
RESULT = "r" * 200
ARGS: dict[str, Any] = {"id": "service-0"}
MODULES = {
    "pydantic_ai": "pydantic_ai",
    "langgraph_toolnode": "langgraph",
    "langgraph_agent": "langgraph",
    "openai_agents": "agents",
}
_QUIET = {
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}

Run = Callable[[], Awaitable[int]]
"""One run of an agent; answers how many results reached its model."""


class PeerError(Exception):
    """A peer cannot be measured; the message says why."""


async def measure(name: str, runs: int = RUNS, turns: int = TURNS, calls: int = CALLS) -> float:
    """Results a minute of a peer, from a new process.

    Raises:
        PeerError: the peer is not installed, or did not do its work.
    """
    shape = [f"--{key}={value}" for key, value in zip(_SHAPE, (runs, turns, calls), strict=True)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.peers", name, *shape,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1], env={**os.environ, **_QUIET},
    )  # fmt: skip
    out, error = await process.communicate()
    if process.returncode != 0:
        said = error.decode().strip().splitlines() or ["it said nothing"]
        raise PeerError(f"the peer {name} failed: {said[-1]}")
    return float(out)


def pydantic_ai(turns: int, calls: int) -> Run:
    """An ``Agent`` with a ``FunctionModel``."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel
    from pydantic_ai.usage import RequestUsage

    async def model(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        turn = len(messages) // 2
        usage = RequestUsage(input_tokens=1, output_tokens=1)
        if turn == turns:
            return ModelResponse(parts=[TextPart("done")], usage=usage)
        parts = [ToolCallPart("noop", ARGS, f"call_{turn}_{n}") for n in range(calls)]
        return ModelResponse(parts=parts, usage=usage)

    agent = Agent(FunctionModel(model))
    agent.tool_plain(noop)

    async def run() -> int:
        done = await agent.run("look it up")
        parts = (part for message in done.all_messages() for part in message.parts)
        return sum(part.part_kind == "tool-return" and part.content == RESULT for part in parts)

    return run


def langgraph_toolnode(turns: int, calls: int) -> Run:
    """A ``ToolNode``, called directly."""
    from langchain_core.tools import tool
    from langgraph.prebuilt import ToolNode
    from langgraph.runtime import Runtime

    node = ToolNode([tool(noop)])
    # What a graph would hand to its node.
    config: Any = {"configurable": {"__pregel_runtime": Runtime()}}

    async def run() -> int:
        results = 0
        for turn in range(turns):
            asked = {"messages": [_asking(turn, calls)]}
            answer = await node.ainvoke(asked, config)
            results += sum(message.content == RESULT for message in answer["messages"])
        return results

    return run


def langgraph_agent(turns: int, calls: int) -> Run:
    """The prebuilt ReAct agent over a chat model that knows its lines."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool
    from langgraph.prebuilt import create_react_agent  # pyright: ignore[reportDeprecated]

    class Scripted(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "scripted"

        def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
            return self

        def _generate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
            turn = (len(messages) - 1) // (calls + 1)
            message = AIMessage("done") if turn == turns else _asking(turn, calls)
            return ChatResult(generations=[ChatGeneration(message=message)])

        async def _agenerate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
            return self._generate(messages)

    with warnings.catch_warnings():
        # Its successor is in another package, on the same graph and tool node.
        warnings.simplefilter("ignore", DeprecationWarning)
        graph = create_react_agent(  # pyright: ignore[reportDeprecated]
            Scripted(), [tool(noop)], version="v1"
        )
    config: Any = {"recursion_limit": 2 * turns + 5}

    async def run() -> int:
        done = await graph.ainvoke({"messages": [HumanMessage("look it up")]}, config)
        kinds = (message for message in done["messages"] if message.type == "tool")
        return sum(message.content == RESULT for message in kinds)

    return run


def openai_agents(turns: int, calls: int) -> Run:
    """The ``Runner`` of the OpenAI Agents SDK."""
    import orjson
    from agents import (
        Agent,
        Model,
        ModelResponse,
        RunConfig,
        Runner,
        Usage,
        function_tool,
        set_tracing_disabled,
    )  # fmt: skip
    from openai.types.responses import (
        ResponseFunctionToolCall,
        ResponseOutputMessage,
        ResponseOutputText,
    )

    arguments = orjson.dumps(ARGS).decode()
    text = ResponseOutputText(annotations=[], text="done", type="output_text")

    class Scripted(Model):
        async def get_response(self, *_: Any, input: Any, **__: Any) -> ModelResponse:
            turn = 0 if isinstance(input, str) else (len(input) - 1) // (2 * calls)
            items: list[Any] = [
                ResponseFunctionToolCall(
                    arguments=arguments, call_id=f"call_{turn}_{n}", name="noop",
                    type="function_call",
                )
                for n in range(calls if turn < turns else 0)
            ]  # fmt: skip
            end = ResponseOutputMessage(
                id="msg", content=[text], role="assistant", status="completed", type="message"
            )
            return ModelResponse(output=items or [end], usage=Usage(), response_id=None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError("nothing is streamed here")

    set_tracing_disabled(True)
    agent = Agent(name="bench", model=Scripted(), tools=[function_tool(noop)])
    config = RunConfig(tracing_disabled=True)

    async def run() -> int:
        done = await Runner.run(agent, "look it up", max_turns=turns + 1, run_config=config)
        return sum(getattr(item, "output", None) == RESULT for item in done.new_items)

    return run


async def noop(id: str) -> str:
    """Look a record up."""
    return RESULT


def _asking(turn: int, calls: int) -> Any:
    """A message of LangChain with the calls of a turn."""
    from langchain_core.messages import AIMessage

    asked = [
        {"name": "noop", "args": ARGS, "id": f"call_{turn}_{n}", "type": "tool_call"}
        for n in range(calls)
    ]
    return AIMessage("", tool_calls=asked)


# -- the process of a peer -----------------------------------------------------------------------

_SHAPE = ("runs", "turns", "calls")
_PEERS: dict[str, Callable[[int, int], Run]] = {
    "pydantic_ai": pydantic_ai,
    "langgraph_toolnode": langgraph_toolnode,
    "langgraph_agent": langgraph_agent,
    "openai_agents": openai_agents,
}


async def _measured(name: str, runs: int, turns: int, calls: int) -> float:
    run = _PEERS[name](turns, calls)
    await asyncio.gather(*(run() for _ in range(min(runs, 4))))
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    results = sum(await asyncio.gather(*(run() for _ in range(runs))))
    secs = time.perf_counter() - began
    if results != runs * turns * calls:
        raise PeerError(f"{results} of {runs * turns * calls} results came back")
    return results / secs * 60


def main() -> int:
    """Print results a minute of one peer."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description="Measure one peer.")
    parser.add_argument("name", choices=sorted(_PEERS))
    for key, default in zip(_SHAPE, (RUNS, TURNS, CALLS), strict=True):
        parser.add_argument(f"--{key}", type=int, default=default)
    options = parser.parse_args()
    if find_spec(MODULES[options.name]) is None:
        parser.exit(
            2,
            f"{options.name} is not installed; install the peers with `pip install -e .[bench]`\n",
        )
    os.environ.update(_QUIET)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = _measured(options.name, options.runs, options.turns, options.calls)
        sys.stdout.write(f"{runner.run(work):.0f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
