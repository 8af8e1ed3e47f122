"""Requests drawn from the OpenAPI document by schemathesis, and what an answer must be.

Cases are drawn once and sent as every caller: most that are found depend on the request, and
drawing takes longer than answering.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
TIMEOUT_SECS = 30

PAYLOADS = (
    "' OR '1'='1' --",
    "'; DROP TABLE conversations; --",
    "$1) OR true --",
    "\\'; SELECT pg_sleep(9)--",
    "a'||(SELECT password_hash FROM users LIMIT 1)||'",
    "%' OR name LIKE '%",
    "_%",
    "\\x00",
    "'}) MATCH (n) DETACH DELETE n //",
    "` RETURN n UNION MATCH (m) RETURN m //",
    "n) WHERE 1=1 OR (n.realm = 'x",
    "$realm",
    "x' | union context_nodes | take 9 //",
    "'); .drop table context_nodes //",
    "database('kyma_other').context_nodes",
    "a & b | !c <-> (d:*",
    "':* | 'x",
    "\\\\",
    '"; DROP DATABASE x; --',
    "$.**",
    "$[*]?(@.a==1)",
    "../../../../etc/passwd",
    "..\\..\\x",
    "/etc/passwd",
    "file:///etc/passwd",
    "%2e%2e%2f",
    "a/../../b",
    "agentcy:rl:user:*",
    "a:b:c",
    "*",
    "?",
    "[a-z]*",
    "\r\nX-Injected: 1\r\n\r\n<b>",
    '\n{"level":"info","event":"forged"}',
    "\x1b[2J\x1b]0;owned\x07",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "{{7*7}}",
    "${jndi:ldap://x/a}",
    "<script>alert(1)</script>",
    "\u202etxt.exe",
    "\ud7ff\uffff",
    "\u0000",
    "true",
    "null",
    "NaN",
    "1e309",
    "-1",
    "9" * 400,
    "a" * 5000,
    "package agentcy\ndeny contains 1",
    "input.x) } allow = true { (true",
    "__proto__",
    "__class__",
    "org_00000000000000000000000000",
    "src_7ZZZZZZZZZZZZZZZZZZZZZZZZZ",
    "00000000-0000-0000-0000-000000000000",
    "scripted:tool=files.write_file",
    "openai:../../x",
    "http://169.254.169.254/latest/meta-data/",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "0 9 * * * *",
    "*/0 * * * *",
    "P9999Y",
    "9999-99-99T99:99:99Z",
)
"""Texts that end a statement, a pattern, a path, a key, a line, a cell, a template, a type."""

OUT_OF_REACH = {
    "POST /api/v1/auth/logout": "ends the login of the one who fuzzes",
    "POST /api/v1/auth/password": "ends the login of the one who fuzzes",
    "DELETE /api/v1/org": "ends the organisation of the one who fuzzes",
    "GET /api/v1/policies/audit/stream": "never ends by itself",
}
"""Operation → why it is not fuzzed; each has tests of its own, named in ``test_fuzz.py``."""


@dataclass
class Drawn:
    """A request that was drawn: its operation, and what to send."""

    name: str
    case: schemathesis.Case
    real: bool
    """Whether ids in the path stand for what is there."""

    def send(self, session: requests.Session, url: str, ids: Mapping[str, str]) -> Any:
        """Send it; with real ids where it takes some."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            request = self.case.as_transport_kwargs(base_url=url)
        if self.real:
            path = self.case.path
            for name, value in ids.items():
                path = path.replace("{" + name + "}", quote(value, safe=""))
            if "{" not in path:
                request["url"] = url + path
        headers = {k: v for k, v in (request.pop("headers", None) or {}).items()
                   if k.lower() != "authorization"}  # fmt: skip
        request.setdefault("params", None)
        request.pop("cookies", None)
        return session.request(
            **request, headers=headers, timeout=TIMEOUT_SECS, allow_redirects=False
        )


@dataclass
class Findings:
    """What was sent, and what should not have been answered."""

    sent: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def look(self, drawn: Drawn, answer: requests.Response) -> None:
        """Hold an answer against the document."""
        self.sent += 1
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        try:
            drawn.case.validate_response(answer, checks=CHECKS)
        except BaseExceptionGroup as fault:  # what schemathesis found, one by one
            sent = answer.request
            body = (sent.body or b"")[:300]
            self.faults.append(
                f"{drawn.name} {sent.url} {body!r} → {answer.status_code}"
                f" {answer.text[:300]!r}: {_said(fault)}"
            )


def _said(fault: BaseException) -> str:
    inner = getattr(fault, "exceptions", None)
    if inner:
        return "; ".join(_said(each) for each in inner)
    return f"{type(fault).__name__}: {str(fault)[:400]}"


def injections(drawn: list[Drawn]) -> Iterator[tuple[Drawn, dict[str, Any]]]:
    """Requests that were drawn, one text of each replaced by a payload.

    The payloads take turns over all places, so every payload comes up somewhere, and with more
    requests at more places. ``drawn`` are requests that fit the document, or nearly.
    """
    turn = 0
    for one in drawn:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            request = one.case.as_transport_kwargs(base_url="")
        places: list[tuple[Any, Any]] = []
        query = dict(request.get("params") or {})
        body = request.get("json")
        places += [(query, name) for name in query]
        places += _texts(body)
        for spot, name in places[:12]:
            kept, spot[name] = spot[name], PAYLOADS[turn % len(PAYLOADS)]
            turn += 1
            sent = json.dumps(body) if body is not None else None
            yield one, {"params": dict(query), "data": sent}
            spot[name] = kept
        if "{" in one.case.path:
            payload = quote(PAYLOADS[turn % len(PAYLOADS)][:200], safe="")
            turn += 1
            path = re.sub(r"\{\w+\}", lambda _, text=payload: text, one.case.path)
            sent = json.dumps(body) if body is not None else None
            yield one, {"path": path, "params": query, "data": sent}


def _texts(node: Any) -> list[tuple[Any, Any]]:
    """The places of a JSON value that hold a text, as (container, key)."""
    if isinstance(node, dict):
        items: Iterator[tuple[Any, Any]] = iter(node.items())
    elif isinstance(node, list):
        items = iter(enumerate(node))
    else:
        return []
    found: list[tuple[Any, Any]] = []
    for key, value in items:
        found += [(node, key)] if isinstance(value, str) else _texts(value)
    return found


def draw(document: dict[str, Any], examples: int, number: int) -> list[Drawn]:
    """Some valid and some invalid requests of each operation.

    Args:
        document: the OpenAPI document.
        examples: requests of each operation; a third of them do not fit the document.
        number: another one draws other requests.
    """
    schema: Any = schemathesis.openapi.from_dict(document)
    drawn: list[Drawn] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        name = f"{operation.method.upper()} {operation.path}"
        if name in OUT_OF_REACH:
            continue
        wrong = max(1, examples // 3)
        for mode, many in ((GenerationMode.POSITIVE, max(1, examples - wrong)),
                           (GenerationMode.NEGATIVE, wrong)):  # fmt: skip
            cases = list(_cases(operation, mode, many, number))
            drawn += [Drawn(name, case, index % 2 == 0) for index, case in enumerate(cases)]
    return drawn


def _cases(operation: Any, mode: GenerationMode, many: int, number: int) -> Iterator[Any]:
    cases: list[Any] = []

    @seed(number)
    @settings(
        max_examples=many,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Any) -> None:
        cases.append(case)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            collect()
    except Exception as error:
        if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):
            raise  # an operation without parameters has no request that does not fit
    return iter(cases[:many])
