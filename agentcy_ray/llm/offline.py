"""``offline:extractive``: answers without any model by quoting what was retrieved.

It has no weights and reaches no network. It says nothing of its own: every statement is a quotation
with the key of the piece that it comes from. When the context build found nothing it asks
``rag.search`` once through the meta-tools, and when that finds nothing either it says so. It never
calls anything else, so it can have no effect.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import (
    Done,
    Evidence,
    Message,
    ModelEvent,
    ModelRequest,
    Part,
    Text,
    TextDelta,
    ToolCallReady,
    ToolReply,
    ToolUse,
    estimate_tokens,
    refuse_json,
)

OFFLINE_REFERENCE = "offline:extractive"
LABEL = "Offline answer (retrieval only)."
"""First words of every answer."""

QUOTES = 4
"""At most this many passages are quoted."""
QUOTE_CHARS = 420
WEAKEST = 0.4
"""A third or fourth quotation needs this part of the best one's score."""
_SEARCH_TOOL = "execute_connector_tool"
_SEARCH_CALL_ID = "offline-search"
_DELTA_CHARS = 48

_WORD = re.compile(r"[A-Za-z0-9_]{2,}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9`\"'(\[])|\n{2,}|\n(?=[-*#>|\d])")
_STOP_TEXT = (
    "a about an and any are as at be by can could describe did do does explain find for from give "
    "has have how i in is it its list me my of on or please show tell that the their them there "
    "these this to us was we were what when where which who whose why will with would you your"
)
_STOP_WORDS = frozenset(_STOP_TEXT.split())


@dataclass(frozen=True)
class Quote:
    """A stretch of one piece of evidence, with how well it fits the question."""

    evidence: Evidence
    text: str
    score: float


class OfflineModel:
    """The extractive model."""

    @property
    def reference(self) -> str:
        """``offline:extractive``."""
        return OFFLINE_REFERENCE

    @property
    def window(self) -> int:
        """No window limits it; the figure bounds the context build."""
        return 64_000

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        """One turn; see ``Model.stream``."""
        refuse_json(request, self.reference)
        question = _question(request.messages)
        quotes = best_quotes(question, request.evidence)
        if not quotes and _may_search(request):
            call = ToolUse(
                id=_SEARCH_CALL_ID,
                name=_SEARCH_TOOL,
                args={"connector": "rag", "tool": "search", "args": {"query": question[:2000]}},
            )
            yield ToolCallReady(call)
            yield _done(request, (call,))
            return
        answer = compose(quotes, request.evidence)
        for start in range(0, len(answer), _DELTA_CHARS):
            yield TextDelta(answer[start : start + _DELTA_CHARS])
        yield _done(request, (Text(text=answer),))


def best_quotes(question: str, evidence: Sequence[Evidence]) -> list[Quote]:
    """The passages that share most with the question, best first, at most one of each node.

    Sentences are scored by the summed inverse document frequency of the question's words in them,
    over all sentences at hand, damped by length; a sentence's neighbours join the quotation while
    it is short. Evidence without any word in common is not quoted, except that a question made of
    stop words only takes the evidence in its given order.
    """
    terms = _terms(question)
    sentences = [(piece, index, part) for piece in evidence for index, part in _sentences(piece)]
    if not sentences:
        return []
    bags = [_terms(part) | (_terms(piece.title) if index == 0 else set())
            for piece, index, part in sentences]  # fmt: skip
    frequency = Counter(term for bag in bags for term in bag)
    best: dict[str, tuple[float, int, int]] = {}
    order = {piece.key: rank for rank, piece in enumerate(evidence)}
    for position, ((piece, index, part), bag) in enumerate(zip(sentences, bags, strict=True)):
        shared = terms & bag
        if terms and not shared:
            continue
        weight = sum(math.log(1 + len(sentences) / frequency[term]) for term in shared)
        score = weight / (1 + 0.15 * math.log1p(len(part) / 80)) - 0.02 * order[piece.key]
        if piece.node_id not in best or score > best[piece.node_id][0]:
            best[piece.node_id] = (score, position, index)
    quotes = [
        Quote(sentences[position][0], _grown(sentences[position][0], index, terms), score)
        for score, position, index in best.values()
    ]
    quotes.sort(key=lambda quote: (-quote.score, quote.evidence.key))
    floor = quotes[0].score * WEAKEST if quotes else 0.0
    return [
        quote for place, quote in enumerate(quotes[:QUOTES]) if place < 2 or quote.score >= floor
    ]


def compose(quotes: Sequence[Quote], evidence: Sequence[Evidence]) -> str:
    """The answer: the label, the quotations with their keys, and where each comes from."""
    if not quotes:
        return (
            f"{LABEL}\n\nNothing in the synchronised sources matches this question. Sync a source "
            "that covers it, ask within another realm, or set LLM_API_KEY for an answer by a model."
        )
    found = f"{len(evidence)} piece{'s' if len(evidence) != 1 else ''} of context"
    lines = [LABEL, "", f"The closest passages among {found}:"]
    for quote in quotes:
        quoted = "\n".join(f"> {line}" for line in quote.text.splitlines())
        lines += ["", f"{quoted} [{quote.evidence.key}]", "", f"— {_origin(quote.evidence)}"]
    return "\n".join(lines)


def _origin(piece: Evidence) -> str:
    named = piece.title in piece.external_id or piece.external_id in piece.title
    where = max(piece.title, piece.external_id, key=len)
    if not named:
        where = f"{piece.title}, {piece.external_id}"
    return f"{where} ({piece.connector}, realm {piece.realm})"


def _terms(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS}


def _stem(word: str) -> str:
    for ending in ("ings", "ing", "edly", "ies", "ied", "ers", "er", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _sentences(piece: Evidence) -> list[tuple[int, str]]:
    parts = [part.strip() for part in _SENTENCE.split(piece.text)]
    return [(index, part) for index, part in enumerate(part for part in parts if part)]


def _grown(piece: Evidence, index: int, terms: set[str]) -> str:
    """The sentence at ``index`` with those after it while it is short, or its best lines."""
    parts = [part for _, part in _sentences(piece)]
    text = parts[index]
    for following in parts[index + 1 :]:
        if len(text) + len(following) + 1 > QUOTE_CHARS // 2:
            break
        text = f"{text}\n{following}"
    # An inner "[3]" would read as a citation key of ours.
    text = re.sub(r"\[(\d{1,3})\]", r"(\1)", text)
    return text if len(text) <= QUOTE_CHARS else _cropped(text, terms)


def _cropped(text: str, terms: set[str]) -> str:
    """The lines of ``text`` that hold most of the terms, within the length of a quotation."""
    lines = text.splitlines()
    best, most = "", -1
    for start in range(len(lines)):
        chosen = ""
        for line in lines[start:]:
            if chosen and len(chosen) + len(line) + 1 > QUOTE_CHARS:
                break
            chosen = f"{chosen}\n{line}" if chosen else line
        shared = len(terms & _terms(chosen))
        if shared > most:
            best, most = ("…\n" if start else "") + chosen, shared
    return best if len(best) <= QUOTE_CHARS + 2 else best[:QUOTE_CHARS].rstrip() + "…"


def _question(messages: Sequence[Message]) -> str:
    for message in reversed(messages):
        if message.role == "user" and message.text:
            return message.text
    return ""


def _may_search(request: ModelRequest) -> bool:
    offered = any(tool.name == _SEARCH_TOOL for tool in request.tools)
    searched = any(
        isinstance(part, ToolReply) and part.id == _SEARCH_CALL_ID
        for message in request.messages
        for part in message.parts
    )
    return offered and not searched


def _done(request: ModelRequest, parts: tuple[Part, ...]) -> Done:
    message = Message(role="assistant", parts=parts)
    usage = Usage(
        in_tokens=estimate_tokens(request.system) + estimate_tokens(_question(request.messages)),
        out_tokens=estimate_tokens(message.text),
        cost_usd=0.0,
        estimated=True,
    )
    return Done(message, usage, "tool_calls" if message.tool_calls else "end_turn")
