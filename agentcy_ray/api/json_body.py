"""What a JSON body may hold, checked once, before any handler sees it.

Python's parser takes more than JSON (NaN, Infinity), integers of any length, halves of surrogate
pairs and NULs. None of these can be stored or sent on, and each would fail somewhere else.
"""

from __future__ import annotations

import json
import re

import orjson

from agentcy_ray.core.errors import BadRequestError, InvalidError, TooLargeError

MAX_DEPTH = 100
"""Objects and lists inside one another; what writes JSON here stops at 254."""
MAX_VALUES = 500_000
"""Commas in a body: each value costs many times its bytes once it is an object."""
_LOWEST, _HIGHEST = -(2**63), 2**64 - 1
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LONG_NUMBER = re.compile(rb"\d{19}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def check_json(body: bytes) -> None:
    """Return when the body may go on.

    Raises:
        BadRequestError: it is not JSON (RFC 8259), or nested deeper than ``MAX_DEPTH``.
        TooLargeError: it holds more values than ``MAX_VALUES``.
        InvalidError: a text holds a NUL, or an integer does not fit 64 bits.
    """
    if body.count(b",") > MAX_VALUES:
        raise TooLargeError(f"the body holds more than {MAX_VALUES:,} values; send less at once")
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(
            f"the body is not JSON at character {error.pos}: {error.msg}"
        ) from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise BadRequestError(f"the body is nested deeper than {MAX_DEPTH} levels; flatten it")
    if b"\\u0000" in body and _NUL.search(body):
        raise InvalidError("a text in the body holds a NUL (\\u0000), which no text may; drop it")
    if _LONG_NUMBER.search(body):
        json.loads(body, parse_int=_fitting)


def _depth(body: bytes) -> int:
    """How deep lists and objects of a JSON text lie in one another."""
    depth = deepest = 0
    for byte in _TEXT.sub(b"", body).translate(None, _NOT_BRACKETS):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _fitting(digits: str) -> int:
    # 20 digits and a sign are the longest that fit; Python refuses to read thousands of them.
    if len(digits) > 20 or not _LOWEST <= int(digits) <= _HIGHEST:
        raise InvalidError(f"the integer {digits[:24]}… does not fit 64 bits; send it as a text")
    return int(digits)
