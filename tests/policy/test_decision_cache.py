"""The decision cache is exact: what it answers is what an evaluation would have answered."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agentcy_ray.core.errors import PolicyInvalidError
from agentcy_ray.policy.engine import POLICY_ERROR, PolicyText, RegoEngine, compile_policies
from agentcy_ray.policy.input import Decision, PolicyInput
from agentcy_ray.policy.sandbox import Sandbox
from agentcy_ray.policy.shipped import starters

ONE = Sandbox()
"""For a set after the other; its process starts with the first that needs it."""
SETTINGS = {"words": ["a", "b"], "limit": 2, "off": False}


def engine(*texts: str, settings: dict | None = None, sandbox: Sandbox | None = None) -> RegoEngine:
    policies = [PolicyText(f"pol_{n}", f"p{n}.rego", text) for n, text in enumerate(texts)]
    return compile_policies(policies, SETTINGS if settings is None else settings, 1000, sandbox)


def question(**resource) -> PolicyInput:
    return PolicyInput(
        subject={"user_id": "usr_1", "role": "member"},
        action="chat.tool.execute",
        resource=resource,
        context={"request_id": "req_1", "approval_granted": False, "realm": None},
        env={"now": "2026-04-24T12:00:00.000Z", "instance_mode": "self-hosted"},
    )


def alike(one: Decision, other: Decision) -> bool:
    plain = {"latency_ms": 0.0, "cached": False}
    return one.model_copy(update=plain) == other.model_copy(update=plain)


# -- random policies, random questions ----------------------------------------------------------

PATHS = st.sampled_from(
    ["input.action", "input.subject.role", "input.resource.a", "input.resource.b",
     "input.resource.b.c", 'input["resource"].b["c"].d', "input.context.realm",
     "input.env.instance_mode", "input.nowhere.x", "res.a", "res.b.c", "mode"]
)  # fmt: skip
CONSTANTS = st.sampled_from(['"a"', '"b"', '"x"', "`a`", "1", "0", "true", "false", "null", '""'])
LITERALS = st.one_of(
    st.builds("{0} {1} {2}".format, PATHS, st.sampled_from(["==", "!=", "=", "<"]), CONSTANTS),
    st.builds("{0} == {1}".format, PATHS, PATHS),
    st.builds("{0} {1} {2}".format, PATHS, st.sampled_from(["==", "=", "in"]),
              st.sampled_from(['["a"]', '{"c": "a"}', '[["a"], {}]', "[]", "{}"])),
    st.builds('{0} in {{"a", "x", 1}}'.format, PATHS),
    st.builds('not {0} in ["a", null]'.format, PATHS),
    st.builds("{0} in input.resource.list".format, CONSTANTS),
    st.builds("not {0}".format, PATHS),
    PATHS,
    st.builds("is_string({0})".format, PATHS),
    st.builds("not wordy({0})".format, PATHS),
    st.builds("deep({0})".format, PATHS),
    st.builds('pick({0}) == "b"'.format, PATHS),
    st.builds("count({0}) > 1".format, PATHS),
    st.builds("1 / {0} > 0".format, PATHS),
    st.builds('startswith({0}, "a")'.format, PATHS),
    st.builds("some v in {0}; v == {1}".format, PATHS, CONSTANTS),
    st.builds('"a" in {{v | some v in {0}}}'.format, PATHS),
    st.builds("every v in {0} {{ v != {1} }}".format, PATHS, CONSTANTS),
    st.builds("some k; input.resource[k] == {0}".format, CONSTANTS),
    st.builds("input[{0}]".format, st.sampled_from(['"action"', "input.resource.a"])),
    st.builds("{0} in data.settings.words".format, PATHS),
    st.sampled_from(
        ["helper", "not helper", "data.agentcy.other.flag", "table[input.resource.a]",
         "some w in data.settings.words; w == input.resource.a", "h := data.settings.absent",
         "data.settings.off", "not data.settings.limit", "data.settings.limit == input.resource.a",
         'helper with input.action as "a"', "chain == 2", "walk(input.resource.b, [p, 1])"]
    ),
)  # fmt: skip
MESSAGES = st.sampled_from([
    '"no"',
    "input.resource.a",
    'sprintf("%v", [input.subject.role])',
    '{"msg": input.resource.b}',
])
BODIES = st.lists(LITERALS, min_size=1, max_size=4).map("\n  ".join)
RULES = st.builds(
    "{0} contains msg if {{\n  {1}\n  msg := {2}\n}}".format,
    st.sampled_from(["deny", "require_approval"]),
    BODIES,
    MESSAGES,
)
POLICIES = st.builds(
    """package agentcy.mine
import rego.v1
import input.resource as res
import input.env.instance_mode as mode
{0}
helper if {{
  {1}
}}
chain := 1 if {{
  {2}
}} else := 2 if {{
  {3}
}}
wordy(x) if {{
  is_string(x)
  x != ""
}}
deep(x) if x.c.d == "a"
pick(x) := y if y := x.c
table[k] := v if some k, v in input.resource.b
""".format,
    st.lists(RULES, min_size=1, max_size=3).map("\n".join),
    BODIES,
    BODIES,
    BODIES,
)
OTHER = 'package agentcy.other\nimport rego.v1\nflag if input.subject.role == "x"\n'
VALUES = st.recursive(
    st.sampled_from(["a", "b", "x", "", 0, 1, 1.0, True, False, None]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "c", "d"]), inner, max_size=2)
    ),
    max_leaves=4,
)
QUESTIONS = st.builds(
    lambda action, role, realm, resource: PolicyInput(
        subject={"role": role},
        action=action,
        resource=resource,
        context={"request_id": "req_1", "approval_granted": False, "realm": realm},
        env={"now": "2026-04-24T12:00:00.000Z", "instance_mode": "self-hosted"},
    ),
    st.sampled_from(["a", "b", "chat.tool.execute"]),
    st.sampled_from(["a", "x", "member"]),
    VALUES,
    st.dictionaries(st.sampled_from(["a", "b", "list"]), VALUES, max_size=3),
)


@pytest.mark.requirement("POL-10")
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(policy=POLICIES, questions=st.lists(QUESTIONS, min_size=2, max_size=12))
def test_cached_and_uncached_decisions_are_equal(policy, questions):
    try:
        rego = engine(policy, OTHER, sandbox=ONE)
    except PolicyInvalidError:
        assume(False)
        return
    for each in [*questions, *(replace(q, env={**q.env, "now": "x"}) for q in questions)]:
        assert alike(rego.decide(each), rego.evaluate(each)), policy


# -- what is remembered, and what is not ----------------------------------------------------------

DENY = "package agentcy\nimport rego.v1\ndeny contains msg if {{\n  {0}\n  msg := {1}\n}}"


def remembers(rego: RegoEngine, first: PolicyInput, second: PolicyInput) -> bool:
    assert not rego.decide(first).cached
    return rego.decide(second).cached


def test_a_question_that_differs_in_nothing_that_is_read_is_not_evaluated_again():
    rego = engine(DENY.format('input.resource.tool == "a.b"', '"no"'))
    first = question(tool="a.b", args={"n": 1})
    again = rego.decide(first), rego.decide(replace(first, resource={"tool": "a.b", "args": 7}))
    assert [decision.cached for decision in again] == [False, True]
    assert again[1].reasons == ("no",)
    assert not rego.decide(question(tool="a.c")).cached


@pytest.mark.requirement("POL-10")
@pytest.mark.parametrize(
    "literal",
    ['input.env.now < "2027"', "count(input.env) > 0", "count(input) > 0", "time.now_ns() > 0",
     'input.context.request_id < "r"', "some k; input[k]", 'uuid.rfc4122("a")',
     'ok with input.action as "x"'],
)  # fmt: skip
def test_a_set_that_reads_what_differs_each_time_is_not_cached(literal):
    rego = engine(DENY.format(literal, '"no"') + "\nok := true")
    assert not remembers(rego, question(), question())


def test_a_text_that_is_merely_present_takes_no_part_in_the_key():
    rego = engine(DENY.format("not is_text(input.context.request_id)", '"no"')
                  + '\nis_text(x) if {\n  is_string(x)\n  x != ""\n}')  # fmt: skip
    first = question()
    other = replace(first, context={**first.context, "request_id": "req_2"})
    absent = replace(first, context={**first.context, "request_id": ""})
    assert remembers(rego, first, other)
    assert not rego.decide(absent).allowed


@pytest.mark.parametrize("literal", ["input.env", "is_object(input)", "input.resource.args"])
def test_of_an_object_that_is_merely_there_only_this_is_in_the_key(literal):
    rego = engine(DENY.format(literal, '"no"'))
    second = replace(question(args={"n": 2}), env={"now": "later"})
    assert remembers(rego, question(args={"n": 1}), second)
    assert not rego.decide(second).allowed


def test_true_one_and_the_text_of_them_are_three_values():
    rego = engine(DENY.format("input.resource.n == 1", 'sprintf("%v", [input.resource.n])'))
    found = [rego.decide(question(n=n)).reasons for n in (True, 1, "1", "true", None)]
    assert found == [(), ("1",), (), (), ()]


def test_what_stands_behind_a_guard_that_fails_is_not_read():
    body = 'input.action == "source.delete"\n  input.env.now < "2027"'
    rego = engine(DENY.format(body, '"late"'))
    assert remembers(rego, question(), question())
    deleting = replace(question(), action="source.delete")
    assert not remembers(rego, deleting, deleting)


def test_the_starter_set_is_cached_for_tool_calls_of_anybody_of_a_role():
    texts = [PolicyText(name, name, rego) for name, rego in sorted(starters().items())]
    hours = {"tz": "UTC", "days": ["mon"], "from": "08:00", "to": "18:00"}
    rego = compile_policies(texts, {"business_hours": hours}, 1000)
    call = {"type": "tool", "tool": "git.log", "tool_effect": "read", "builtin": False}
    first = question(**call)
    second = PolicyInput(
        subject={"user_id": "usr_2", "role": "member"},
        action=first.action,
        resource={**call, "args": {"a": 1}, "args_sha256": "f"},
        context={**first.context, "request_id": "req_2", "run_id": "run_1"},
        env={"now": "2026-04-24T12:00:01.000Z", "instance_mode": "self-hosted"},
    )
    assert remembers(rego, first, second)
    assert not rego.decide(replace(second, subject={"user_id": "usr_2", "role": "owner"})).cached


def test_a_decision_by_fault_is_not_kept():
    rego = engine(DENY.format("1 / input.resource.n > 0", '"no"'))
    for _ in range(2):
        failed = rego.decide(question(n=0))
        assert (failed.rule, failed.cached) == (POLICY_ERROR, False)


def test_the_cache_is_bounded_and_lets_the_longest_unused_go(monkeypatch):
    monkeypatch.setattr("agentcy_ray.policy.engine.REMEMBERED", 2)
    rego = engine(DENY.format("input.resource.n > 1", '"no"'))
    for n in (1, 2, 1, 3):
        rego.decide(question(n=n))
    assert [rego.decide(question(n=n)).cached for n in (1, 2)] == [True, False]


def test_large_values_are_decided_and_not_kept():
    rego = engine(DENY.format("count(input.resource.args) > 5000", '"long"'))
    assert not remembers(rego, question(args="x" * 6000), question(args="x" * 6000))
    assert rego.decide(question(args="x" * 6000)).reasons == ("long",)
