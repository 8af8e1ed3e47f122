"""A made-up company. Every entity is a function of (seed, number): nothing is held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of entity: its label, its realm, and what its entities point at (type → label)."""

    label: str
    realm: str
    links: Mapping[str, str]


KINDS = (
    Kind("Team", "default", {}),
    Kind("Person", "default", {"MEMBER_OF": "Team"}),
    Kind("Service", "infrastructure", {"OWNED_BY": "Team", "DEPENDS_ON": "Service"}),
    Kind("Repository", "development", {"BUILDS": "Service", "OWNED_BY": "Team"}),
    Kind("Dataset", "data", {"PRODUCED_BY": "Service"}),
    Kind("Customer", "crm", {"USES": "Service", "LOOKED_AFTER_BY": "Person"}),
    Kind("Design", "design", {"DESIGNED_FOR": "Service"}),
    Kind("Runbook", "knowledge", {"DESCRIBES": "Service", "WRITTEN_BY": "Person"}),
)
EDGE_TYPES = tuple(sorted({edge for kind in KINDS for edge in kind.links}))
_POSITION = {kind.label: position for position, kind in enumerate(KINDS)}

_FIRST = ("amber", "birch", "cobalt", "delta", "ember", "fern", "harbor", "indigo", "juniper")
_SECOND = ("billing", "search", "orders", "identity", "ledger", "shipping", "mail", "forms")
_LEVELS = ("low", "medium", "high", "critical")
_SYMPTOMS = ("the queue grows", "latency doubles", "logins fail", "the disk fills up")
_CURES = (
    "restart it and watch the error rate",
    "drain one node at a time",
    "roll the release back",
    "raise the connection limit, then tell the owning team",
)


@dataclass(frozen=True)
class Entity:
    """One entity of the company."""

    number: int
    kind: Kind
    external_id: str
    name: str
    properties: dict[str, Any]


class Company:
    """``entities`` entities, the kinds in turn: first a team, then a person, and so on."""

    def __init__(self, seed: int, entities: int) -> None:
        self.seed = seed
        self.entities = entities

    def all(self) -> Iterator[Entity]:
        """Every entity, in order."""
        return map(self.entity, range(self.entities))

    def entity(self, number: int) -> Entity:
        """The entity with this number; below ``entities``."""
        ordinal, position = divmod(number, len(KINDS))
        kind = KINDS[position]
        first, second = self._pick(number, 1, _FIRST), self._pick(number, 2, _SECOND)
        return Entity(
            number,
            kind,
            external_id=f"{kind.label.lower()}-{ordinal}",
            name=f"{first}-{second}-{ordinal}",
            properties={
                "level": self._pick(number, 3, _LEVELS),
                "opened_at": f"20{10 + self._mix(number, 4) % 15}-0{1 + ordinal % 9}-15",
                "size": self._mix(number, 5) % 1000,
            },
        )

    def find(self, external_id: str) -> Entity | None:
        """The entity with this external id, for example ``service-3``."""
        label, _, ordinal = external_id.rpartition("-")
        position = _POSITION.get(label.capitalize())
        if position is None or not ordinal.isascii() or not ordinal.isdecimal():
            return None
        number = int(ordinal) * len(KINDS) + position
        if number >= self.entities:
            return None
        entity = self.entity(number)
        return entity if entity.external_id == external_id else None

    def links(self, entity: Entity) -> Iterator[tuple[str, Entity]]:
        """What an entity points at: pairs of edge type and target."""
        for salt, (edge, label) in enumerate(entity.kind.links.items(), 10):
            position = _POSITION[label]
            count = (self.entities - position + len(KINDS) - 1) // len(KINDS)
            if label == entity.kind.label:
                count = min(count, entity.number // len(KINDS))  # to an older one: no cycles
            if count > 0:
                ordinal = self._mix(entity.number, salt) % count
                yield edge, self.entity(ordinal * len(KINDS) + position)

    def text(self, entity: Entity) -> str | None:
        """The body of a runbook; None for other kinds."""
        if entity.kind.label != "Runbook":
            return None
        about = dict(self.links(entity)).get("DESCRIBES")
        name = about.name if about else "every service"
        symptom = self._pick(entity.number, 6, _SYMPTOMS)
        return (
            f"# Runbook {entity.name}\n\nThis runbook is about {name}.\n\n"
            f"## When {symptom}\n\nIf {symptom} on {name}, {self._pick(entity.number, 7, _CURES)}."
            f" The level of this runbook is {entity.properties['level']}.\n"
        )

    def _pick(self, number: int, salt: int, words: tuple[str, ...]) -> str:
        return words[self._mix(number, salt) % len(words)]

    def _mix(self, number: int, salt: int) -> int:
        """SplitMix64 (Steele, Lea, Flood 2014) of (seed, number, salt): cheap, well spread."""
        mask = 2**64 - 1
        z = (self.seed * 0x2545F4914F6CDD1D + (number * 32 + salt) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)
