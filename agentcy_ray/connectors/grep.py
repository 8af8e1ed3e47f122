"""Search in lines of text by RE2, whose time is linear in the input whatever the pattern is."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from agentcy_ray.core.errors import ToolArgumentsError

LINE_CHARS = 400
"""A longer line is cut in an answer."""


class LinePattern:
    """A pattern that is looked for line by line.

    Args:
        pattern: a regular expression in RE2 syntax, or plain text when ``literal``.
        ignore_case: whether case matters not.
        literal: take the pattern as plain text.

    Raises:
        ToolArgumentsError: the pattern is empty or not a regular expression that RE2 takes.
    """

    def __init__(self, pattern: str, *, ignore_case: bool = False, literal: bool = False) -> None:
        if not pattern:
            raise ToolArgumentsError("the pattern is empty; give some text to look for")
        self._pattern = pattern
        self._ignore_case = ignore_case
        self._literal = literal
        try:
            self._mask(pa.array([""]), multiline=True)
        except pa.ArrowInvalid as error:
            raise ToolArgumentsError(
                f"{pattern!r} is not a regular expression that is understood ({error});"
                " look-around and back-references are not; set literal to look for plain text"
            ) from None

    def lines(self, text: str) -> Iterator[tuple[int, str]]:
        """Number (from 1) and text, cut to ``LINE_CHARS``, of each matching line."""
        if not self._mask(pa.array([text]), multiline=True)[0].as_py():
            return
        rows = text.split("\n")
        mask = self._mask(pa.array(rows, type=pa.large_string()), multiline=False)
        for index in pc.call_function("indices_nonzero", [mask]).to_pylist():
            line = rows[index]
            yield index + 1, line if len(line) <= LINE_CHARS else line[:LINE_CHARS] + "…"

    def _mask(self, texts: pa.Array, *, multiline: bool) -> pa.Array:
        pattern, kernel = self._pattern, "match_substring"
        if not self._literal:
            pattern = f"(?m){pattern}" if multiline else pattern
            kernel = "match_substring_regex"
        options = pc.MatchSubstringOptions(pattern, ignore_case=self._ignore_case)
        return pc.call_function(kernel, [texts], options)
