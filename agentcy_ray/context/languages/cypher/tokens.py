"""Cypher text to tokens. Comments and escapes end here; unknown characters are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from agentcy_ray.context.languages.refusals import check_length, refuse

MAX_INTEGER = 2**63 - 1

Kind = Literal["name", "quoted", "string", "integer", "float", "parameter", "sign", "end"]

_SIGNS = ("<>", "<=", ">=", "=~", "..", *"()[]{},.:;|&!%^*/+-<>=")
_BLANK = re.compile(r"(?:\s+|//[^\n\r]*|/\*.*?\*/)+", re.DOTALL)
_NUMBER = re.compile(
    r"0[xX](?P<hex>[0-9a-fA-F]+)|0[oO](?P<octal>[0-7]+)"
    r"|(?P<float>(?:\d+\.\d+|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)|(?P<integer>\d+)"
)
_NAME = re.compile(r"[^\W\d]\w*")
_PARAMETER = re.compile(r"\$(?P<name>[A-Za-z]\w*)", re.ASCII)
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "`": "`", "b": "\b", "f": "\f"} | {
    "n": "\n", "r": "\r", "t": "\t",
}  # fmt: skip
_CODE_POINTS = {"u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``value`` is the decoded text of names, strings and parameters, or the number."""

    kind: Kind
    text: str
    value: str | int | float
    start: int

    @property
    def word(self) -> str:
        """The upper-cased text of an unquoted name, else the empty string: keywords are names."""
        return self.text.upper() if self.kind == "name" else ""

    @property
    def end(self) -> int:
        """Offset of the first character after the token."""
        return self.start + len(self.text)


def tokenize(source: str) -> list[Token]:
    """All tokens of a query, closed by one of kind ``end``.

    Raises:
        QueryRejectedError: too long, or something that is no token of the language.
    """
    check_length(source)
    tokens: list[Token] = []
    at = 0
    while True:
        if blank := _BLANK.match(source, at):
            at = blank.end()
        if at >= len(source):
            tokens.append(Token("end", "", "", len(source)))
            return tokens
        token = _next(source, at)
        tokens.append(token)
        at = token.end


def _next(source: str, at: int) -> Token:  # noqa: RET503 - refuse never returns
    char = source[at]
    if char in "'\"":
        return _string(source, at)
    if char == "`":
        return _quoted(source, at)
    if char == "$":
        if found := _PARAMETER.match(source, at):
            return Token("parameter", found[0], found["name"], at)
        refuse(
            source, at, source[at : at + 10], "not a parameter name",
            "name parameters $letters_and_digits, not starting with an underscore",
        )  # fmt: skip
    if found := _NUMBER.match(source, at):
        return _number(source, found)
    if found := _NAME.match(source, at):
        return Token("name", found[0], found[0], at)
    for sign in _SIGNS:
        if source.startswith(sign, at):
            if source.startswith("/*", at):
                refuse(source, at, "/*", "the comment is not closed", "close it with */")
            return Token("sign", sign, sign, at)
    refuse(source, at, char, "not a character of Cypher outside quotes")


def _number(source: str, found: re.Match[str]) -> Token:
    at, text = found.start(), found[0]
    after = source[found.end() : found.end() + 1]
    if after == "_" or after.isalnum():
        refuse(source, at, text + after, "not a number", "write 12, 1.5, 1e3 or 0x1F")
    if found["float"]:
        number = float(text)
        if number == float("inf"):
            refuse(source, at, text, "the number does not fit into 64 bits")
        return Token("float", text, number, at)
    digits, base = next(
        (found[name], base)
        for name, base in (("hex", 16), ("octal", 8), ("integer", 10))
        if found[name]
    )
    if len(digits) > 64 or (integer := int(digits, base)) > MAX_INTEGER:
        refuse(source, at, text[:30], "the number does not fit into 64 bits")
    return Token("integer", text, integer, at)


def _quoted(source: str, at: int) -> Token:
    """A name in backticks. Servers decode ``\\u0060`` inside them, so a backslash is refused."""
    end = at + 1
    while True:
        end = source.find("`", end)
        if end < 0:
            refuse(source, at, source[at : at + 10], "the quoted name is not closed",
                   "close it with `")  # fmt: skip
        if not source.startswith("``", end):
            break
        end += 2
    name = source[at + 1 : end].replace("``", "`")
    if not name or "\\" in name or not name.isprintable():
        refuse(
            source, at, source[at : end + 1],
            "a quoted name may not be empty nor hold a backslash or a control character",
        )  # fmt: skip
    return Token("quoted", source[at : end + 1], name, at)


def _string(source: str, at: int) -> Token:
    quote = source[at]
    parts: list[str] = []
    here = at + 1
    while True:
        if here >= len(source):
            refuse(source, at, source[at : at + 10], "the string is not closed",
                   f"close it with {quote}")  # fmt: skip
        char = source[here]
        if char == quote:
            return Token("string", source[at : here + 1], "".join(parts), at)
        if char == "\\":
            piece, here = _escape(source, here)
            parts.append(piece)
        else:
            parts.append(char)
            here += 1


def _escape(source: str, at: int) -> tuple[str, int]:  # noqa: RET503 - as above
    mark = source[at + 1 : at + 2]
    if mark in _ESCAPES and mark:
        return _ESCAPES[mark], at + 2
    if width := _CODE_POINTS.get(mark):
        digits = source[at + 2 : at + 2 + width]
        if re.fullmatch(rf"[0-9a-fA-F]{{{width}}}", digits):
            point = int(digits, 16)
            if point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF:
                return chr(point), at + 2 + width
    refuse(source, at, source[at : at + 2], "not an escape of a Cypher string")
