"""Graph walks over an edge table, as recursive SQL that lists every path up to its length."""

from __future__ import annotations

from dataclasses import dataclass

from agentcy_ray.devkyma.kql.tokens import kql_error
from agentcy_ray.devkyma.reader import Reader
from agentcy_ray.devkyma.sqltext import named, quoted

DIRECTIONS = ("forward", "backward", "both")
MOST_HOPS = 64


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk from some seeds, or from everywhere; types are read from the column ``type``."""

    edges: str
    seeds: tuple[str, ...]
    src: str
    dst: str
    longest: int
    direction: str = "forward"
    kind: str | None = None

    def recursive(self) -> str:
        """CTEs ``__step`` (one hop) and ``__walk`` (seed, prev, node, depth)."""
        sides = {"forward": [(self.src, self.dst)], "backward": [(self.dst, self.src)]}
        pairs = sides.get(self.direction, [(self.src, self.dst), (self.dst, self.src)])
        step = " UNION ALL ".join(
            f"SELECT {named(a)} AS a, {named(b)} AS b FROM {self.edges}{self.filter('WHERE')}"
            for a, b in pairs
        )
        seeds = f" WHERE a IN ({', '.join(map(quoted, self.seeds))})" if self.seeds else ""
        return (
            f"WITH RECURSIVE __step AS ({step}), __walk AS ("
            f"SELECT a AS seed, a AS prev, b AS node, 1 AS depth FROM __step{seeds}"
            " UNION ALL SELECT w.seed, w.node, s.b, w.depth + 1 FROM __walk w"
            f" JOIN __step s ON s.a = w.node WHERE w.depth < {self.longest})"
        )

    def filter(self, word: str, column: str = "type") -> str:
        """The condition on the type, if there is one."""
        return f" {word} {column} = {quoted(self.kind)}" if self.kind is not None else ""


def traverse(reader: Reader, edges: str) -> str:
    """``graph-traverse``: the edges reached, with their depth."""
    reader.expect("source")
    seeds = _seeds(reader)
    walk = _rest(reader, edges, seeds)
    return (
        f"({walk.recursive()} SELECT e.*, m.depth FROM"
        " (SELECT prev, node, min(depth) AS depth FROM __walk GROUP BY prev, node) m"
        f" JOIN {edges} e ON e.{named(walk.src)} = m.prev AND e.{named(walk.dst)} = m.node"
        f"{walk.filter('AND', 'e.type')})"
    )


def var_length(reader: Reader, edges: str) -> str:
    """``graph-var-length``: what is reached, at its shortest distance."""
    reader.expect("source")
    walk, shortest = _rest_with_least(reader, edges, (reader.text(),))
    return reached(walk, shortest, "src", "dst")


def reached(walk: Walk, shortest: int, src: str, dst: str) -> str:
    """Pairs of ends with their shortest distance, as a sub-query."""
    return (
        f"({walk.recursive()} SELECT seed AS {named(src)}, node AS {named(dst)}, min(depth) AS"
        " depth FROM __walk GROUP BY seed, node"
        f" HAVING min(depth) BETWEEN {shortest} AND {walk.longest})"
    )


def shortest_path(reader: Reader, edges: str) -> str:
    """``graph-shortest-path``: one row, its length or null and whether there is one."""
    reader.expect("source")
    source = reader.text()
    reader.expect("target")
    target = reader.text()
    return shortest_between(_rest(reader, edges, (source,)), target)


def shortest_between(walk: Walk, target: str) -> str:
    """The length of the shortest way to a target, as a sub-query of one row."""
    return (
        f"({walk.recursive()} SELECT min(depth) AS depth, count(*) > 0 AS found"
        f" FROM __walk WHERE node = {quoted(target)})"
    )


def _seeds(reader: Reader) -> tuple[str, ...]:
    if not reader.accept("("):
        return (reader.text(),)
    seeds = [reader.text()]
    while reader.accept(","):
        seeds.append(reader.text())
    reader.expect(")")
    return tuple(seeds)


def _rest(reader: Reader, edges: str, seeds: tuple[str, ...]) -> Walk:
    return _tail(reader, edges, seeds, *_ends(reader))


def _rest_with_least(reader: Reader, edges: str, seeds: tuple[str, ...]) -> tuple[Walk, int]:
    ends = _ends(reader)
    least = reader.integer() if reader.accept("min-hops") else 1
    return _tail(reader, edges, seeds, *ends), least


def _ends(reader: Reader) -> tuple[str, str]:
    reader.expect("from")
    src = reader.word()
    reader.expect("to")
    return src, reader.word()


def _tail(reader: Reader, edges: str, seeds: tuple[str, ...], src: str, dst: str) -> Walk:
    reader.expect("max-hops")
    longest = reader.integer()
    if not 1 <= longest <= MOST_HOPS:
        raise kql_error(f"max-hops is 1 to {MOST_HOPS}")
    direction = "forward"
    if reader.accept("direction"):
        direction = reader.word("a direction")
        if direction not in DIRECTIONS:
            raise kql_error(f"direction is one of {', '.join(DIRECTIONS)}")
    kind = reader.text() if reader.accept("edge-type") else None
    return Walk(edges, seeds, src, dst, longest, direction, kind)
