"""Citation keys: ``[n]`` in an answer, and the node that each stands for.

Every retrieved piece gets a key, one for each node, in the order of retrieval. While an answer
streams, the keys in it are checked: a known one yields its ``citation`` event, one that stands for
nothing is taken out. Code is left as it is, since ``list[3]`` is no citation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentcy_ray.agent.runlog import NewEvent
from agentcy_ray.core.events import EventType
from agentcy_ray.llm.model import Evidence

_TOKEN = re.compile(r"`+|\n\n| ?\[\d{1,3}(?:\s?,\s?\d{1,3})*\]")
_UNFINISHED = re.compile(r"(?:`+|\n| | ?\[[\d,\s]{0,30})\Z")
_CODE_BLOCK = "```"


@dataclass(frozen=True)
class Piece:
    """A retrieved piece before it has a key."""

    kind: str
    node_id: str
    title: str
    text: str
    realm: str
    connector: str
    external_id: str
    url: str | None = None


class Citations:
    """The keys of one run."""

    def __init__(self, evidence: Iterable[Evidence] = ()) -> None:
        self._evidence = list(evidence)
        self._keys = {piece.node_id: piece.key for piece in self._evidence}

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """All pieces so far."""
        return tuple(self._evidence)

    def add(self, piece: Piece) -> Evidence:
        """Give a piece its key: the one of its node, or the next free one."""
        key = self._keys.setdefault(piece.node_id, max(self._keys.values(), default=0) + 1)
        found = Evidence.model_validate({"key": key, **piece.__dict__})
        if found not in self._evidence:
            self._evidence.append(found)
        return found

    def knows(self, key: int) -> bool:
        """Whether the key stands for a node."""
        return any(piece.key == key for piece in self._evidence)

    def describe(self, key: int) -> dict[str, Any]:
        """The data of the key's ``citation`` event."""
        piece = next(piece for piece in self._evidence if piece.key == key)
        return {
            "key": key,
            "node_id": piece.node_id,
            "title": piece.title,
            "url": piece.url,
            "realm": piece.realm,
            "source": {"connector": piece.connector, "external_id": piece.external_id},
        }


class CitationStream:
    """Reads an answer as it streams; ``used`` lists the keys in it, in their order."""

    def __init__(self, citations: Citations, used: Iterable[int] = ()) -> None:
        self._citations = citations
        self._held = ""
        self._code: str | None = None
        self._before = ""
        self.used: list[int] = list(used)

    def feed(self, text: str) -> tuple[str, list[NewEvent]]:
        """The text that may go out now, and the events of keys that appear for the first time."""
        return self._read(self._held + text, last=False)

    def finish(self) -> tuple[str, list[NewEvent]]:
        """What was held back at the end of a message."""
        answer = self._read(self._held, last=True)
        self._code = None
        return answer

    def _read(self, text: str, *, last: bool) -> tuple[str, list[NewEvent]]:
        out: list[str] = []
        events: list[NewEvent] = []
        position = 0
        self._held = ""
        while True:
            token = _TOKEN.search(text, position)
            if token is None:
                tail = text[position:]
                cut = None if last else _UNFINISHED.search(tail)
                if cut is not None:
                    self._held = tail[cut.start() :]
                    tail = tail[: cut.start()]
                out.append(tail)
                break
            found = token.group()
            if not last and found[0] == "`" and token.end() == len(text):
                self._held = found  # the run of backticks may go on
                out.append(text[position : token.start()])
                break
            out.append(text[position : token.start()])
            position = token.end()
            if found[0] == "`":
                self._toggle(found)
                out.append(found)
            elif found == "\n\n":
                # A lone backtick must not switch citations off for the rest of the answer.
                if self._code is not None and self._code != _CODE_BLOCK:
                    self._code = None
                out.append(found)
            else:
                before = (text[: token.start()] or self._before)[-1:]
                out.append(self._cite(found, before, events))
        written = "".join(out)
        self._before = (written or self._before)[-1:]
        return written, events

    def _toggle(self, run: str) -> None:
        if self._code is None:
            self._code = run
        elif self._code == run:
            self._code = None

    def _cite(self, found: str, before: str, events: list[NewEvent]) -> str:
        if self._code is not None:
            return found
        keys = [int(number) for number in re.findall(r"\d+", found)]
        known = [key for key in keys if self._citations.knows(key)]
        if not known:
            # "queue[3]" in prose is an index; " [3]" was meant as a citation of nothing.
            attached = found[0] == "[" and (before.isalnum() or before in "_)]")
            return found if attached and before else ""
        for key in known:
            if key not in self.used:
                self.used.append(key)
                events.append((EventType.CITATION, self._citations.describe(key)))
        space = " " if found[0] == " " else ""
        return space + "".join(f"[{key}]" for key in known)


def pieces_of_search(result: Any) -> list[tuple[Mapping[str, Any], Piece]]:
    """The hits in a result of ``rag.search``, each with its piece; empty for other results."""
    hits = result.get("hits") if isinstance(result, Mapping) else None
    if not isinstance(hits, list):
        return []
    found: list[tuple[Mapping[str, Any], Piece]] = []
    for hit in hits:
        if not isinstance(hit, Mapping) or not isinstance(hit.get("node_id"), str):
            continue
        source = hit.get("source")
        origin: Mapping[str, Any] = source if isinstance(source, Mapping) else {}
        piece = Piece(
            kind="passage",
            node_id=hit["node_id"],
            title=str(hit.get("name") or hit["node_id"]),
            text=str(hit.get("snippet") or ""),
            realm=str(hit.get("realm") or ""),
            connector=str(origin.get("connector") or ""),
            external_id=str(origin.get("external_id") or ""),
            url=str(hit["url"]) if hit.get("url") else None,
        )
        found.append((hit, piece))
    return found
