"""Policies that mean harm: refused, or a deny within the limits, in a process that goes on.

Each of the bombs ends or bars the process that evaluates it; what is asserted is that this one
lives, that the answer is a refusal, and that another organisation's set decides meanwhile.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from agentcy_ray.core.errors import PolicyInvalidError
from agentcy_ray.policy.engine import PolicyText, RegoEngine, compile_policies
from agentcy_ray.policy.modules import MAX_BYTES
from agentcy_ray.policy.plain import is_short
from agentcy_ray.policy.shipped import starters
from tests.policy.test_engine import question

pytestmark = pytest.mark.attack

LIMIT_MS = 50
"""Of an evaluation; what takes longer is denied."""
V1 = "package agentcy.bomb\nimport rego.v1\n"
BIG = "numbers.range(1, 3000)"
NEST = " ".join(f"some x{n} in l;" for n in range(9))


def doubling(step: str, times: int = 40) -> str:
    """Definitions that each use the one before twice."""
    return "\n".join(step.format(n=n, m=n - 1) for n in range(1, times))


def rule(body: str, more: str = "") -> str:
    return f'{V1}{more}\ndeny contains "x" if {{ {body} }}\n'


# Refused when they are saved, or a deny when they are asked: what is never allowed is to hang.
AT_SAVE = {
    "brackets": f"{V1}x := {'[' * 30}{']' * 30}",
    "braces": f"{V1}x := {'{' * 40}1{'}' * 40}",
    "objects": f"{V1}x := {'{1:' * 30}1{'}' * 30}",
    "a thousand brackets": "package agentcy\nx := " + "[" * 500 + "]" * 500,
    "brackets behind a text": f'{V1}x := {"[" * 4}"]]]]]]]]]]",{"[" * 26}{"]" * 30}',
    "brackets behind a comment": f"{V1}x := {'[ #]' + chr(10)}{'[' * 29}{']' * 30}",
    "parentheses": f"{V1}x := {'(' * 450}1{')' * 450}",
    "minus signs": f"{V1}x := {'-' * 900}1",
    "a sum of thirty thousand": f"{V1}x := 1\n" + "".join(f"y{n} := 1+1\n" for n in range(9_000)),
    "lines of a sum": f"{V1}x := 1" + "\n+1" * 30_000,
    "unterminated": f"{V1}x := " + "[{" * 200,
    "too large": V1 + "#" * MAX_BYTES,
    "many rules": V1 + "\n".join(f'deny contains "r{n}" if input.a{n}' for n in range(4_000)),
    "nested comprehensions": f"{V1}x := " + "[y | y := " * 40 + "1" + "]" * 40,
    "range": rule("count(numbers.range(1, 2000000000)) > 1"),
    "pairs": rule(f"l := {BIG}; count([1 | {NEST}]) > 1"),
    "doubled texts": rule(
        "count(s39) > 1", 's0 := "aaaaaaaaaa"\n' + doubling('s{n} := concat("", [s{m}, s{m}])')
    ),
    "doubled lists": rule("count(s39) > 1", "s0 := [1]\n" + doubling("s{n} := [s{m}, s{m}]")),
    "doubled answers": f"{V1}s0 := [1]\n"
    + doubling("s{n} := [s{m}, s{m}]")
    + "\ndeny contains s39",
    "squared numbers": rule("s39 > 1", "s0 := 10\n" + doubling("s{n} := s{m} * s{m}")),
    "shifted numbers": rule("bits.lsh(1, 9000000000) > 1"),
    "calls": rule("f39(1) > 1", "f0(x) := x\n" + doubling("f{n}(x) := f{m}(x) + f{m}(x)")),
    "recursion": rule("f(1) > 1", "f(x) := f(x)"),
    "recursion of rules": rule("a", "a if b\nb if a"),
    "mutual recursion": rule("f(3)", "f(x) if g(x)\ng(x) if f(x)"),
    "deep recursion": rule(
        "f1(1) > 1",
        "f900(x) := x\n" + "\n".join(f"f{n}(x) := f{n + 1}(x) + 0" for n in range(1, 900)),
    ),
    "walked": rule(f"l := [{BIG}]; count([1 | walk([l, l, l], [_, a]); walk(l, [_, b])]) > 1"),
    "regex by size": rule('regex.match("((a{1000}){1000}){1000}", "aaaa")'),
    "regex of alternatives": rule(f'regex.match("{"(a|aa)*" * 30}b", "{"a" * 800}")'),
    "split": rule('count(regex.split("a{0,1000}{0,1000}", "aaaaaaaaa")) > 1'),
    "padded": rule('count(sprintf("%2000000000d", [1])) > 1'),
    "repeated": rule('count(strings.repeat("aaaa", 2000000000)) > 1'),
    "networks": rule('count(net.cidr_expand("0.0.0.0/0")) > 1'),
    "replaced": rule(
        "count(s39) > 1",
        's0 := "aaaaaaaaaa"\n' + doubling('s{n} := replace(s{m}, "a", "aaaaaaaaaa")'),
    ),
    "json in json": rule(
        "count(s39) > 1", 's0 := "\\"\\""\n' + doubling("s{n} := json.marshal(s{m})")
    ),
    "sets of sets": rule(f"count({{[a, b, c] | a := {BIG}[_]; b := {BIG}[_]; c := {BIG}[_]}}) > 1"),
    "with in with": rule(
        "s30",
        "s0 if input\n"
        + doubling("s{n} if {{ s{m} with input.a as {n}; s{m} with input.b as {n} }}", 31),
    ),
    "every": rule(
        f"l := {BIG}; every a in l {{ every b in l {{ every c in l {{ a+b+c > 0 }} }} }}"
    ),
    "http": rule('http.send({"method": "get", "url": "http://169.254.169.254/"})'),
    "http by with": rule("f with f as http.send", "f := 1"),
    "runtime": rule('opa.runtime().env["HOME"] != ""'),
    "random": rule('rand.intn("x", 10) > 1'),
    "trace": rule('trace("x")'),
    "import of a built-in": f'{V1}import data.http\ndeny contains "x" if http.send({{}})',
    "another package": 'package other\ndeny[msg] { msg := "x" }',
    "system package": 'package system.authz\ndeny[msg] { msg := "x" }',
    "a deny that is no set": f"{V1}deny := false",
    "unicode": f'{V1}d\u0435ny contains "x" if true\nx := \u202e1',
    "a NUL": f"{V1}x := 1\x00",
}


FEW = (
    "brackets", "brackets behind a comment", "parentheses", "a deny that is no set", "many rules",
    "range", "pairs", "doubled answers", "calls", "recursion", "regex by size", "every", "http",
    "http by with", "import of a built-in", "system package",
)  # fmt: skip
"""Those that make test runs: one of each way to do harm."""


def compiled(text: str) -> RegoEngine:
    texts = [PolicyText("pol_1", "bomb.rego", text)]
    texts += [PolicyText(f"pol_{name}", name, rego) for name, rego in starters().items()]
    return compile_policies(texts, {}, LIMIT_MS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bomb" in metafunc.fixturenames:
        every = metafunc.config.getoption("--attacks") == "long"
        metafunc.parametrize("bomb", AT_SAVE if every else FEW)


def test_a_bomb_is_refused_or_denies_and_never_hangs(bomb: str) -> None:
    began = time.thread_time()
    try:
        rego = compiled(AT_SAVE[bomb])
    except PolicyInvalidError as refusal:
        told = refusal.message
    else:
        decision = rego.evaluate(question({"n": 1}))
        assert decision.latency_ms <= LIMIT_MS or decision.rule == "policy_error"
        told = " ".join(decision.reasons)
    assert "backtrace" not in told
    assert len(told) < 8192
    # CPU time of this thread, which a bomb in it would have burnt.
    assert time.thread_time() - began < 2


BY_INPUT = {
    "pairs of the input": rule("l := input.resource.l; count([1 | some a in l; some b in l; "
                               "some c in l; a + b + c > 0]) > 1"),
    "range of the input": rule("count(numbers.range(1, input.resource.n)) > 1"),
    "pattern of the input": rule("regex.match(input.resource.p, input.resource.t)"),
    "doubled input": rule(
        "count(s15) > 100000",
        's0 := input.resource.t\n' + doubling('s{n} := concat("", [s{m}, s{m}])', 16),
    ),
    "walked input": rule("count([1 | walk(input, [_, a]); walk(input, [_, b])]) > 100000"),
}  # fmt: skip
HUGE = {
    "l": list(range(20_000)), "n": 4_000_000_000, "p": "(a{1000}){1000}", "t": "ab" * 20_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BY_INPUT)
async def test_a_bomb_that_an_argument_sets_off_denies_and_spares_everybody_else(name: str) -> None:
    rego, others = compiled(BY_INPUT[name]), compiled(V1 + "deny contains 1 if input.resource.no")
    assert rego.evaluate(question({"l": [1], "n": 1, "p": "b", "t": "a"})).allowed
    bomb = asyncio.create_task(rego.answer(question(HUGE)))
    turns = 0
    while not bomb.done():
        assert (await others.answer(question({"no": turns % 2 == 1}))).allowed is (turns % 2 == 0)
        turns += 1
        await asyncio.wait({bomb}, timeout=0.002)
    decision = await bomb
    assert (decision.decision, decision.rule) == ("deny", "policy_error")
    assert turns > 0
    again = await rego.answer(question({"l": [2], "n": 1, "p": "b", "t": "a"}))
    assert again.allowed


def test_what_decides_in_this_process_is_plain() -> None:
    rego = compiled(
        V1 + 'deny contains m if { input.action == "a"; m := sprintf("%s", [input.b]) }'
    )
    assert rego._here
    for text in (*BY_INPUT.values(), *(AT_SAVE[n] for n in ("pairs", "calls", "doubled answers"))):
        try:
            assert not compiled(text)._here
        except PolicyInvalidError:
            continue


GROWING = {
    "iteration": "x := input.a[_]",
    "an unbound name": "input.a[i]",
    "some": "some x in input.a",
    "every": "every x in input.a { x > 1 }",
    "comprehension": "count([x | x := input.a]) > 1",
    "with": "ok with input as {}",
    "a built-in that grows": 'x := concat("", [input.a, input.a])',
    "lists of names": "x := [input.a]; y := [x, x]",
    "a product": "input.a * input.a > 1",
    "a union": "x := {input.a} | {input.b}",
    "a pattern from outside": "regex.match(input.p, input.a)",
    "a counted pattern": 'regex.match("(a{9}){9}", input.a)',
    "a width": 'x := sprintf("%999999d", [input.a])',
    "a width from outside": "x := sprintf(input.f, [input.a])",
    "a template of a template": 'x := sprintf("%s", [input.a]); y := sprintf("%s%s", [x, x])',
    "a whole document": "x := data.agentcy; y := [x, x]",
}


@pytest.mark.parametrize("name", GROWING)
def test_what_could_grow_is_not_plain(name: str) -> None:
    assert not compiled(rule(GROWING[name], "ok := true"))._here


def test_nesting_counts_without_texts_and_comments() -> None:
    assert is_short("x := [{(1)}]")
    assert not is_short("x := [[[[1]]]]")
    assert not is_short('x := [ "]" , [ "]" , [ "]" , [ 1 ]]]]')
    assert not is_short("x := [ #]\n [ #]\n [ #]\n [")
    assert not is_short("x := 1\n" * 1000)
