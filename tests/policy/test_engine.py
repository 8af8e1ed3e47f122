import asyncio
import gc
import sys
import threading

import pytest

from agentcy_ray.core.errors import PolicyInvalidError
from agentcy_ray.policy.engine import PolicyText, RegoEngine, compile_policies
from agentcy_ray.policy.input import PolicyInput
from agentcy_ray.policy.trials import explained

NEWER = """package agentcy.newer
import rego.v1
deny contains "newer says no" if input.resource.stop == "newer"
require_approval contains "newer asks" if input.resource.ask
"""
OLDER = """package agentcy.older.nested
deny[msg] { input.resource.stop == "older"; msg := "older says no" }
require_approval[msg] { input.resource.ask; msg := "older asks" }
"""


def engine(*texts: str, settings: dict | None = None, timeout_ms: float = 1000) -> RegoEngine:
    policies = [PolicyText(f"pol_{n}", f"p{n}.rego", text) for n, text in enumerate(texts)]
    return compile_policies(policies, settings or {}, timeout_ms)


def question(resource: dict | None = None, **context) -> PolicyInput:
    return PolicyInput(
        subject={"user_id": "usr_1", "role": "member"},
        action="chat.tool.execute",
        resource=resource or {},
        context={"request_id": "req_1", "approval_granted": False, **context},
        env={"now": "2026-04-24T12:00:00.000Z"},
    )


@pytest.mark.requirement("POL-01")
@pytest.mark.requirement("POL-04")
@pytest.mark.parametrize("form", ["newer", "older"])
def test_both_forms_of_deny_in_any_package_below_agentcy_block(form):
    decision = engine(NEWER, OLDER).evaluate(question({"stop": form}))
    assert decision.decision == "deny"
    assert decision.reasons == (f"{form} says no",)
    assert decision.policy_id == ("pol_0" if form == "newer" else "pol_1")


@pytest.mark.requirement("POL-05")
def test_both_forms_of_require_approval_ask_until_the_approval_is_granted():
    rego = engine(NEWER, OLDER)
    asked = rego.evaluate(question({"ask": True}))
    assert asked.decision == "allow"
    assert asked.requires_approval
    assert asked.approval_reasons == ("newer asks", "older asks")
    granted = rego.evaluate(question({"ask": True}).granted())
    assert (granted.decision, granted.requires_approval) == ("allow", False)
    assert granted.approval_reasons == ()


ASKS = """package agentcy.asks
import rego.v1
require_approval contains "one will do" if input.resource.ask
require_approval contains {"msg": "two people", "quorum": 2} if input.resource.ask == "two"
require_approval contains {"msg": "not you", "second_person": true} if input.resource.ask == "other"
require_approval contains {"msg": "oops", "qourum": 2} if input.resource.ask == "typo"
require_approval contains {"msg": "oops", "quorum": 0} if input.resource.ask == "nobody"
"""


@pytest.mark.parametrize(
    ("ask", "reasons", "quorum", "second"),
    [
        ("x", ("one will do",), 1, False),
        ("two", ("one will do", "two people"), 2, False),
        ("other", ("not you", "one will do"), 1, True),
    ],
)
def test_a_question_for_approval_may_ask_for_several_people_or_for_another_one(
    ask, reasons, quorum, second
):
    decision = engine(ASKS).evaluate(question({"ask": ask}))
    assert (decision.approval_reasons, decision.approval_quorum) == (reasons, quorum)
    assert decision.approval_second_person is second


@pytest.mark.parametrize("ask", ["typo", "nobody"])
def test_a_question_for_approval_that_is_misspelt_is_a_deny_and_no_smaller_question(ask):
    decision = engine(ASKS).evaluate(question({"ask": ask}))
    assert (decision.decision, decision.rule) == ("deny", "policy_error")
    assert "require_approval" in decision.reasons[0]


def test_a_deny_wins_over_a_question_for_approval():
    decision = engine(NEWER, OLDER).evaluate(question({"ask": True, "stop": "older"}))
    assert (decision.decision, decision.requires_approval) == ("deny", False)


def test_nothing_denies_by_default_not_even_with_no_policy_at_all():
    assert engine().evaluate(question()).allowed
    assert engine(NEWER).evaluate(question()).allowed


@pytest.mark.requirement("POL-07")
def test_an_evaluation_that_fails_is_a_deny_without_a_stack_trace():
    rego = engine("package agentcy\ndeny contains 1 if input.resource.n / input.resource.d > 1")
    decision = rego.evaluate(question({"n": 1, "d": 0}))
    assert (decision.decision, decision.rule) == ("deny", "policy_error")
    assert "divide by zero" in decision.reasons[0]
    assert "backtrace" not in decision.reasons[0]
    assert rego.evaluate(question({"n": 1, "d": 2})).allowed


@pytest.mark.requirement("POL-07")
def test_an_evaluation_past_its_time_is_a_deny():
    slow = """package agentcy
    deny contains "x" if {
      input.resource.slow
      hits := [1 | some i in numbers.range(1, 200); some j in numbers.range(1, 200); i * j == 7]
      count(hits) > 2
    }"""
    rego = engine(slow, timeout_ms=5)
    assert rego.evaluate(question()).allowed
    decision = rego.evaluate(question({"slow": True}))
    assert (decision.decision, decision.rule) == ("deny", "policy_error")
    assert "POLICY_EVAL_TIMEOUT_MS" in decision.reasons[0]


def test_one_set_decides_alike_on_many_threads():
    rego, found = engine(NEWER, OLDER), []

    def ask() -> None:
        found.extend(rego.evaluate(question({"stop": "older"})).reasons for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [("older says no",)] * 80


def test_messages_that_are_no_text_are_shown_as_json():
    rego = engine('package agentcy\ndeny contains {"code": 7}')
    assert rego.evaluate(question()).reasons == ('{"code":7}',)


def test_a_package_name_that_needs_quotes_decides_too():
    rego = engine('package agentcy["my-team"]\ndeny contains "quoted"')
    assert rego.evaluate(question()).reasons == ("quoted",)


def test_settings_are_read_as_data():
    rego = engine(
        "package agentcy\ndeny contains data.settings.word if data.settings.word",
        settings={"word": "no"},
    )
    assert rego.evaluate(question()).reasons == ("no",)


@pytest.mark.requirement("POL-09")
@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("package agentcy\n\ndeny contains msg if {\n  msg := \n}", 4, 7, "expecting"),
        ("package agentcy\ndeny contains 1 if unknown(input)", 2, 20, "no function 'unknown'"),
        ("package agentcy\ndeny contains 1 if missing == 2", 2, 20, "missing"),
        ("package other\ndeny contains 1", 1, 1, "package agentcy"),
        ("package agentcy\ndeny := true", 2, 1, "deny contains msg"),
        ("package agentcy\ndefault deny := false", 2, 1, "deny contains msg"),
        ("package agentcy\ndeny contains 1 if http.send({})", 2, 20, "http.send"),
        ("package agentcy\nx := opa.runtime()", 2, 6, "opa.runtime"),
        ('package agentcy\nx := [rand.intn("a", 3)]', 2, 7, "rand.intn"),
        ('package agentcy\nf(y) := 1 if { trace("a") }', 2, 16, "trace"),
        ("", 1, 1, "package"),
    ],
)
def test_text_that_cannot_be_used_is_refused_with_its_place(text, line, column, says):
    with pytest.raises(PolicyInvalidError, match=r"p0\.rego") as caught:
        engine(text)
    assert says in caught.value.message
    assert (caught.value.details["line"], caught.value.details["column"]) == (line, column)
    assert "backtrace" not in caught.value.message


def test_functions_of_another_policy_may_be_called():
    library = "package agentcy.lib\nimport rego.v1\nbad(x) if x == 7"
    user = """package agentcy.user
    import rego.v1
    import data.agentcy.lib as rules
    deny contains "seven" if rules.bad(input.resource.n)
    deny contains "seven by path" if data.agentcy.lib.bad(input.resource.n)"""
    with pytest.raises(PolicyInvalidError):
        engine(user)
    assert len(engine(library, user).evaluate(question({"n": 7})).reasons) == 2


@pytest.mark.parametrize("by", ["its last user", "the collector of garbage"])
async def test_whichever_thread_drops_a_set_last_its_engine_is_dropped_where_it_was_made(
    by, monkeypatch
):
    """regorus keeps the memory of an engine that another thread drops, and can only complain."""
    gc.collect()
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: complaints.append(said.exc_value))
    sets = [engine(NEWER)]
    assert sets[0].evaluate(question()).allowed
    if by == "its last user":
        await asyncio.to_thread(sets.clear)
    else:
        sets.append(sets)
        del sets
        await asyncio.to_thread(gc.collect)
    await asyncio.sleep(0)
    assert complaints == []


def test_questions_that_take_too_long_together_are_refused(monkeypatch):
    rego, asked = engine(NEWER), [question(), question({"stop": "newer"})]
    assert [each.decision.allowed for each in explained(rego, asked)] == [True, False]
    monkeypatch.setattr("agentcy_ray.policy.trials.TRY_SECS", -1.0)
    with pytest.raises(PolicyInvalidError, match="POST /policies/replays"):
        explained(rego, asked)
