"""Evaluating a set of policies in process, by the regorus engine.

regorus engines belong to the thread that made them and hold the interpreter lock while they work,
so each thread has its own and evaluates in place: about 0.1 ms for the starter bundles, less than
a hop to another thread. Whatever goes wrong in an evaluation is a deny.

A decision is remembered under the values that the set reads (``keys.py``), unless an evaluation
failed or the set reads something that differs each time. The memory belongs to the compiled set, so
no decision outlives its version.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from agentcy_ray.core.errors import PolicyInvalidError
from agentcy_ray.policy.asks import Ask, ask_of, message_of, strictest
from agentcy_ray.policy.input import Decision, PolicyInput
from agentcy_ray.policy.keys import Key, Plan, Planner, seen
from agentcy_ray.policy.modules import Engine, Module, explain, parse
from agentcy_ray.policy.references import Definitions

POLICY_ERROR = "policy_error"
"""The rule that a failed evaluation is denied by."""
REMEMBERED = 4096
"""Decisions that one compiled set keeps; the longest unused goes first."""


@dataclass(frozen=True)
class PolicyText:
    """A policy as it is stored."""

    policy_id: str
    name: str
    rego: str


class RegoEngine:
    """A compiled policy set; immutable, usable from any thread."""

    def __init__(
        self, modules: Sequence[Module], data: Mapping[str, Any], timeout_ms: float
    ) -> None:
        """Use ``compile_policies`` instead, which checks the modules first."""
        self._modules = tuple(modules)
        self._data = orjson.dumps(dict(data)).decode()
        self._timeout_ms = timeout_ms
        self._names = ", ".join(module.name for module in modules) or "the policy set"
        # A path that two policies share is told under the first one's name.
        self._rules = {rule.text: (rule, m) for m in reversed(modules) for rule in m.rules}
        self._query = (
            "{" + ", ".join(f'"{text}": {rule.query}' for text, (rule, _) in self._rules.items())
        ) + "}"  # fmt: skip
        self._local = threading.local()
        self._planner = Planner(
            Definitions([(module.tree, module.text) for module in modules]),
            tuple(sorted({rule.path for module in modules for rule in module.rules})),
            data.get("settings") or {},
        )
        self._decisions: OrderedDict[Key, Decision] = OrderedDict()

    def decide(self, question: PolicyInput) -> Decision:
        """Decide, by memory where that is exact; never raises.

        Equal to ``evaluate``, but that a question is not refused for a part of it that no policy
        reads and that Rego could not hold.
        """
        try:
            plan, chosen = self._planner.plan(question)
            key = self._planner.key(plan, chosen, question)
        except (TypeError, ValueError):  # a value that is read is no JSON
            return self.evaluate(question)
        if key is None:
            return self._evaluate(question, seen(plan, question))
        found = self._decisions.get(key)
        if found is None:
            return self._remember(key, self._evaluate(question, seen(plan, question)))
        with suppress(KeyError):  # another thread may have dropped it just now
            self._decisions.move_to_end(key)
        return found

    def evaluate(self, question: PolicyInput) -> Decision:
        """Decide by the whole question and without memory; never raises.

        A failure is a deny by rule ``policy_error``.
        """
        return self._evaluate(question, question.document())

    def plan(self, question: PolicyInput) -> Plan:
        """What this question is decided by.

        Raises:
            TypeError: the question holds what is no JSON.
        """
        return self._planner.plan(question)[0]

    def fired(self, question: PolicyInput) -> list[tuple[str, Module, list[Any]]]:
        """The deciding rules with a message for this question; none when an evaluation fails."""
        if self.evaluate(question).rule == POLICY_ERROR:
            return []
        found = self._ask(self._engine(), question.document())
        return [(text, self._rules[text][1], found[text]) for text in found if found[text]]

    def _remember(self, key: Key, decision: Decision) -> Decision:
        if decision.rule != POLICY_ERROR:
            kept = decision.model_copy(update={"cached": True, "latency_ms": 0.0})
            self._decisions[key] = kept
            if len(self._decisions) > REMEMBERED:
                with suppress(KeyError):
                    self._decisions.popitem(last=False)
        return decision

    def _evaluate(self, question: PolicyInput, document: Mapping[str, Any]) -> Decision:
        try:
            engine = self._engine()
            # CPU time of this thread: a busy machine must not turn into denials.
            started = time.thread_time()
            found = self._ask(engine, document)
            latency_ms = (time.thread_time() - started) * 1000
        except BaseException as error:  # a panic of regorus is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self._local.engine = None  # a panic may leave the engine in any state
            return _failed(explain(self._names, error).message)
        if latency_ms > self._timeout_ms:
            return _failed(
                f"policy evaluation took {latency_ms:.0f} ms, more than POLICY_EVAL_TIMEOUT_MS "
                f"({self._timeout_ms:g})",
                latency_ms,
            )
        return self._decide(found, bool(question.context.get("approval_granted")), latency_ms)

    def check(self) -> None:
        """Run the set once, which analyses all of it.

        Raises:
            PolicyInvalidError: a variable is unsafe, rules contradict each other, and the like.
        """
        try:
            self._engine()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise explain(self._names, error) from None

    def _engine(self) -> Any:
        engine = getattr(self._local, "engine", None)
        if engine is None:
            engine = Engine()
            for module in self._modules:
                module.add_to(engine)
            engine.add_data_json(self._data)
            engine.set_input_json("{}")
            engine.eval_query_as_json(self._query)  # the first query pays for the analysis
            self._local.engine = engine
        return engine

    def _ask(self, engine: Any, document: Mapping[str, Any]) -> dict[str, Any]:
        engine.set_input_json(orjson.dumps(document, default=str).decode())
        # As JSON: a Python set could not hold a message that is an object.
        answer = orjson.loads(engine.eval_query_as_json(self._query))
        return answer["result"][0]["expressions"][0]["value"]

    def _decide(self, found: Mapping[str, Any], granted: bool, latency_ms: float) -> Decision:
        denied: list[tuple[str, str]] = []
        asked: list[tuple[str, Ask]] = []
        for text, messages in found.items():
            if self._rules[text][0].name == "deny":
                denied.extend((text, message_of(item)) for item in messages)
                continue
            try:
                asked.extend((text, ask_of(item)) for item in messages)
            except PolicyInvalidError as error:
                return _failed(f"{text}: {error.message}", latency_ms)
        denied.sort()
        asked = [] if granted else sorted(asked, key=lambda ask: (ask[0], ask[1].reason))
        first = next(iter(denied or asked), None)
        quorum, second_person = strictest(ask for _, ask in asked)
        return Decision(
            decision="deny" if denied else "allow",
            reasons=tuple(message for _, message in denied),
            policy_id=self._rules[first[0]][1].policy_id if first else None,
            rule=first[0] if first else None,
            requires_approval=bool(asked) and not denied,
            approval_reasons=tuple(ask.reason for _, ask in asked),
            approval_quorum=quorum,
            approval_second_person=second_person,
            latency_ms=latency_ms,
        )


def compile_policies(
    policies: Sequence[PolicyText], settings: Mapping[str, Any], timeout_ms: float
) -> RegoEngine:
    """Parse, check and try a policy set.

    Args:
        policies: the active ones.
        settings: the organisation's ``policy_settings``, read as ``data.settings``.
        timeout_ms: CPU milliseconds that an evaluation may take.

    Raises:
        PolicyInvalidError: one of them cannot be used; ``details`` hold policy, line and column.
    """
    modules = [parse(policy.policy_id, policy.name, policy.rego) for policy in policies]
    engine = RegoEngine(modules, {"settings": dict(settings)}, timeout_ms)
    engine.check()
    return engine


def denied_by_error(error: PolicyInvalidError) -> Decision:
    """The answer of a set that does not even compile."""
    return _failed(error.message)


def _failed(reason: str, latency_ms: float = 0.0) -> Decision:
    return Decision(decision="deny", reasons=(reason,), rule=POLICY_ERROR, latency_ms=latency_ms)
