"""Evaluating a set of policies in process, by the regorus engine.

regorus engines belong to the thread that made them and hold the interpreter lock while they work,
so each thread has its own and evaluates in place: about 0.1 ms for the starter bundles, less than
a hop to another thread. Whatever goes wrong in an evaluation is a deny.

A decision is remembered under the values that the set reads (``keys.py``), unless an evaluation
failed or the set reads something that differs each time. The memory belongs to the compiled set, so
no decision outlives its version.

What somebody wrote is read in a process that can be killed, and evaluated there too unless it is
plain (``plain.py``); what came with the product is trusted.
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
from agentcy_ray.policy.kept import Kept
from agentcy_ray.policy.keys import Key, Plan, Planner, seen
from agentcy_ray.policy.modules import Engine, Module, explain, invalid, parse, read_here
from agentcy_ray.policy.plain import is_plain, is_short
from agentcy_ray.policy.references import Definitions
from agentcy_ray.policy.sandbox import Found, Sandbox
from agentcy_ray.policy.shipped import starters

POLICY_ERROR = "policy_error"
"""The rule that a failed evaluation is denied by."""
HERE_BYTES = 32 * 1024
"""A plain set is asked about a larger input in the other process."""
HERE_READ_MS = 50.0
"""And a set whose texts took more CPU time to read stays there."""
_ENDS_AFTER = 4.0
"""Times the limit of an evaluation at which its process is ended; until then it is told."""
_ENDS_MS = (200.0, 10_000.0)
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
        self,
        modules: Sequence[Module],
        data: Mapping[str, Any],
        timeout_ms: float,
        sandbox: Sandbox | None = None,
        written: Sequence[Module] = (),
    ) -> None:
        """Use ``compile_policies`` instead, which checks the modules first.

        ``sandbox`` is for the modules that somebody wrote, which are ``written``; None when all
        came with the product.
        """
        self._modules = tuple(modules)
        self._sandbox = sandbox
        self._here = sandbox is None or (sandbox.read_ms <= HERE_READ_MS and is_plain(written))
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
        found, key, document = self._known(question)
        return found or self._remember(key, self._evaluate(question, document))

    async def answer(self, question: PolicyInput) -> Decision:
        """``decide``, waiting for the other process beside the event loop."""
        found, key, document = self._known(question)
        if found is not None:
            return found
        if self._sandbox is None or (self._here and not _large(document)):
            return self._remember(key, self._evaluate(question, document))
        decision = await self._sandbox.in_turn(self._evaluate, question, document)
        return self._remember(key, decision)

    def _known(
        self, question: PolicyInput
    ) -> tuple[Decision | None, Key | None, Mapping[str, Any]]:
        """The decision, if it is remembered; else what to keep it under, and what to ask."""
        try:
            plan, chosen = self._planner.plan(question)
            key = self._planner.key(plan, chosen, question)
        except (TypeError, ValueError):  # a value that is read is no JSON
            return None, None, question.document()
        if key is None:
            return None, None, seen(plan, question)
        found = self._decisions.get(key)
        if found is None:
            return None, key, seen(plan, question)
        with suppress(KeyError):  # another thread may have dropped it just now
            self._decisions.move_to_end(key)
        return found, key, {}

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
        found, _ = self._asked(question.document())
        return [(text, self._rules[text][1], found[text]) for text in found if found[text]]

    def _remember(self, key: Key | None, decision: Decision) -> Decision:
        if key is not None and decision.rule != POLICY_ERROR:
            kept = decision.model_copy(update={"cached": True, "latency_ms": 0.0})
            self._decisions[key] = kept
            if len(self._decisions) > REMEMBERED:
                with suppress(KeyError):
                    self._decisions.popitem(last=False)
        return decision

    def _evaluate(self, question: PolicyInput, document: Mapping[str, Any]) -> Decision:
        try:
            found, latency_ms = self._asked(document)
        except BaseException as error:  # a panic of regorus is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self.leave_thread()  # a panic may leave the engine in any state
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
        texts = [(module.name, module.text, module.v0) for module in self._modules]
        failure: PolicyInvalidError | None = None
        try:
            if not self._here and self._sandbox is not None:
                self._sandbox.load(texts, self._data, self._query)
                return
            self._engine()
            if self._sandbox is not None:
                self._sandbox.keep(texts, self._data, self._query)
        except BaseException as error:  # a panic of regorus is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            failure = explain(self._names, error)
        finally:
            self.leave_thread()
        if failure is not None:  # and not its cause, whose frames hold an engine of this thread
            raise failure

    def leave_thread(self) -> None:
        """Drop what this thread keeps, which no other thread can: for one that decides no more."""
        self._local.kept = None

    def _engine(self) -> Any:
        kept: Kept | None = getattr(self._local, "kept", None)
        if kept is not None:
            return kept.engine
        engine = Engine()
        for module in self._modules:
            module.add_to(engine)
        engine.add_data_json(self._data)
        engine.set_input_json("{}")
        engine.eval_query_as_json(self._query)  # the first query pays for the analysis
        self._local.kept = Kept(engine)
        return engine

    def _asked(self, document: Mapping[str, Any]) -> tuple[Found, float]:
        """What each rule says of an input, and the CPU milliseconds that it took."""
        asked = orjson.dumps(document, default=str).decode()
        if self._sandbox is not None and (not self._here or len(asked) > HERE_BYTES):
            least, most = _ENDS_MS
            limit = min(max(self._timeout_ms * _ENDS_AFTER, least), most)
            return self._sandbox.ask(asked, limit)
        engine = self._engine()
        # CPU time of this thread: a busy machine must not turn into denials.
        started = time.thread_time()
        engine.set_input_json(asked)
        # As JSON: a Python set could not hold a message that is an object.
        answer = orjson.loads(engine.eval_query_as_json(self._query))
        took_ms = (time.thread_time() - started) * 1000
        return answer["result"][0]["expressions"][0]["value"], took_ms

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
    policies: Sequence[PolicyText],
    settings: Mapping[str, Any],
    timeout_ms: float,
    sandbox: Sandbox | None = None,
) -> RegoEngine:
    """Parse, check and try a policy set.

    Args:
        policies: the active ones.
        settings: the organisation's ``policy_settings``, read as ``data.settings``.
        timeout_ms: CPU milliseconds that an evaluation may take.
        sandbox: one that serves no other engine any more; its process is used again.

    Raises:
        PolicyInvalidError: one of them cannot be used; ``details`` hold policy, line and column.
    """
    shipped = set(starters().values())
    written = any(policy.rego not in shipped for policy in policies)
    sandbox = (sandbox or Sandbox()) if written else None
    try:
        modules = [_module(policy, policy.rego in shipped, sandbox) for policy in policies]
        own = [module for module in modules if module.text not in shipped]
        engine = RegoEngine(modules, {"settings": dict(settings)}, timeout_ms, sandbox, own)
    except RecursionError:
        names = ", ".join(policy.name for policy in policies)
        raise invalid(names, "nests too deep; put parts of it into rules", None, None) from None
    engine.check()
    return engine


def _module(policy: PolicyText, shipped: bool, sandbox: Sandbox | None) -> Module:
    known = shipped or sandbox is None or is_short(policy.rego)
    read = read_here if known or sandbox is None else sandbox.read
    return parse(policy.policy_id, policy.name, policy.rego, read)


def _large(document: Mapping[str, Any]) -> bool:
    try:
        return len(orjson.dumps(document, default=str)) > HERE_BYTES
    except TypeError:
        return False  # a fault, which the evaluation tells


def denied_by_error(error: PolicyInvalidError) -> Decision:
    """The answer of a set that does not even compile."""
    return _failed(error.message)


def _failed(reason: str, latency_ms: float = 0.0) -> Decision:
    return Decision(decision="deny", reasons=(reason,), rule=POLICY_ERROR, latency_ms=latency_ms)
