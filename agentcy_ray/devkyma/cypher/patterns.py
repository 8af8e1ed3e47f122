"""``MATCH`` patterns of kyma's Cypher."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcy_ray.devkyma.cypher.tokens import cypher_error
from agentcy_ray.devkyma.kql.patterns import Hop, Segment
from agentcy_ray.devkyma.reader import Reader

OPEN_END = 10
"""The upper bound of a variable length that names none."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The one variable-length relationship of a query."""

    kind: str | None
    direction: str
    shortest: int
    longest: int


@dataclass(slots=True)
class Patterns:
    """Everything that the ``MATCH`` clauses said."""

    segments: list[Segment] = field(default_factory=list[Segment])
    reach: Reach | None = None
    path: str | None = None

    @property
    def nodes(self) -> set[str]:
        """Every node variable."""
        return {node for segment in self.segments for node in segment.nodes}

    @property
    def edges(self) -> set[str]:
        """Every relationship variable."""
        return {hop.edge for segment in self.segments for hop in segment.hops}


def read_patterns(reader: Reader, into: Patterns, *, optional: bool) -> None:
    """Read the patterns of one ``MATCH``.

    Raises:
        EngineError: 400 for a pattern that kyma does not read.
    """
    while True:
        if reader.token.kind == "word" and reader.after(1).value == "=":
            _shortest_path(reader, into)
        else:
            into.segments.append(_chain(reader, into, optional=optional))
        if not reader.accept(","):
            break
    if into.reach is not None and (len(into.segments) > 1 or len(into.segments[0].hops) > 1):
        raise cypher_error("a variable length may be the only relationship of a query")


def _shortest_path(reader: Reader, into: Patterns) -> None:
    into.path = reader.word()
    reader.expect("=")
    if reader.take().value.lower() != "shortestpath":
        raise cypher_error("a path is only given by shortestPath")
    reader.expect("(")
    into.segments.append(_chain(reader, into, optional=False))
    reader.expect(")")
    if into.reach is None:
        raise cypher_error("shortestPath needs a variable length")


def _chain(reader: Reader, into: Patterns, *, optional: bool) -> Segment:
    segment = Segment([], [], optional=optional)
    _node(reader, segment)
    while reader.sees("-") or reader.sees("<"):
        segment.hops.append(_hop(reader, into))
        _node(reader, segment)
    if not segment.hops:
        raise cypher_error("a pattern needs at least one relationship")
    return segment


def _node(reader: Reader, segment: Segment) -> None:
    reader.expect("(")
    name = reader.word("a node variable")
    if reader.accept(":"):
        segment.labels[name] = _exact(reader)
    reader.expect(")")
    segment.nodes.append(name)


def _hop(reader: Reader, into: Patterns) -> Hop:
    backward = reader.accept("<")
    reader.expect("-")
    reader.expect("[")
    number = sum(len(segment.hops) for segment in into.segments)
    name = reader.word() if reader.token.kind == "word" else f"__r{number}_{reader.token.at}"
    kind = _exact(reader) if reader.accept(":") else None
    lengths = _lengths(reader) if reader.accept("*") else None
    reader.expect("]")
    reader.expect("-")
    forward = reader.accept(">")
    if backward and forward:
        raise reader.unexpected("one direction")
    if lengths is not None:
        if into.reach is not None:
            raise cypher_error("one variable length only")
        direction = "backward" if backward else "forward" if forward else "both"
        into.reach = Reach(kind, direction, *lengths)
    return Hop(name, kind, forward=not backward)


def _lengths(reader: Reader) -> tuple[int, int]:
    least = reader.integer() if reader.token.kind == "number" else None
    if not reader.accept(".."):
        return (1, OPEN_END) if least is None else (least, least)
    most = reader.integer() if reader.token.kind == "number" else OPEN_END
    return (1 if least is None else least, most)


def _exact(reader: Reader) -> str:
    """A label or a type, as it is written."""
    if reader.token.kind != "word":
        raise reader.unexpected("a name")
    return reader.take().value
