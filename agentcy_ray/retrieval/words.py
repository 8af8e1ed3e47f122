"""The words of a query: what the text side of a search looks for."""

from __future__ import annotations

import re

MAX_TERMS = 12
MAX_TERM_CHARS = 64
_SPLIT = re.compile(r"[\s,;()\[\]{}<>\"'`|!?…。，、！？“”‘’«»]+")
_EDGES = ".:-–—/\\*#&=~^+"
_LOOKED_UP = re.compile(r"[^\W_]{3}")  # pg_trgm indexes runs of three letters or digits
_WILD = re.compile(r"[\\%_]")
_STOP_WORDS = """
a about after all also an and any are as at be because been before but by can could did do does for
from get give had has have how i if in into is it its let like list make many may me more most much
my no not of on one or our out please same should show so some such tell than that the their them
then there these they this those to use used using via was we were what when where which while who
whom whose why will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())


def terms(query: str) -> list[str]:
    """Up to ``MAX_TERMS`` different words of ``query`` in order, lower case, without stop words.

    Words without three letters or digits in a row are left out, since no index finds them.
    """
    found: dict[str, None] = {}
    for part in _SPLIT.split(query.casefold()):
        word = part.strip(_EDGES)[:MAX_TERM_CHARS]
        if word not in _STOP and _LOOKED_UP.search(word):
            found[word] = None
            if len(found) == MAX_TERMS:
                break
    return list(found)


def like_pattern(term: str) -> str:
    r"""``term`` anywhere, for ``ILIKE``; ``%``, ``_`` and ``\`` stand for themselves."""
    return f"%{_WILD.sub(lambda match: chr(92) + match[0], term)}%"


def comparable(query: str, words: list[str]) -> str:
    """The text whose trigrams are compared: the words, or the query where it has none."""
    return " ".join(words) or query[: MAX_TERM_CHARS * 4]
