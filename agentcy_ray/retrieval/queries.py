"""What is asked of a search, and what it answers: the records of the specification, §14.4."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentcy_ray.core.ids import SourceId, SpaceId

MAX_QUERY_CHARS = 65_536
MAX_TOP_K = 100
MAX_FILTER_VALUES = 100


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains the character U+0000, which no stored text holds")
    return text


Text = Annotated[str, AfterValidator(_storable)]
Scalar = Text | int | float | bool
Values = Annotated[tuple[Text, ...], Field(max_length=MAX_FILTER_VALUES)]


class Filters(BaseModel):
    """Which chunks may be candidates at all; everything given must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Values = ()
    """The node carries one of these labels."""
    sources: Values = ()
    """Names or ids (``src_…``) of sources; the node came from one of them."""
    after: datetime | None = None
    """Last seen or changed at this time or later."""
    before: datetime | None = None
    """Last seen or changed before this time."""
    exclude: Annotated[
        dict[Text, Scalar | Annotated[list[Scalar], Field(max_length=MAX_FILTER_VALUES)]],
        Field(max_length=MAX_FILTER_VALUES),
    ] = Field(default_factory=dict)
    """Property → value or values; a node with an equal property is left out."""


class RagQuery(BaseModel):
    """A search by meaning, ordered again by words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str = Field(max_length=MAX_QUERY_CHARS)
    top_k: int = Field(default=10, ge=1, le=MAX_TOP_K)
    realms: Values = ()
    """Empty = every realm that the caller may see."""
    filters: Filters = Filters()
    space: Annotated[Literal["both"] | SpaceId | None, Field(union_mode="left_to_right")] = None
    """None = the active space; ``both`` = also the one beside it, fused by rank."""


class HybridQuery(RagQuery):
    """A search by meaning and by words at once."""

    text_weight: float = Field(default=0.4, ge=0, le=1)
    vector_weight: float = Field(default=0.6, ge=0, le=1)


class HitSource(BaseModel):
    """Where a hit came from."""

    model_config = ConfigDict(frozen=True)

    connector: str
    source_id: SourceId
    external_id: str


class Hit(BaseModel):
    """An entity, with the chunk of it that fits the query best."""

    model_config = ConfigDict(frozen=True)

    node_id: str
    labels: tuple[str, ...]
    score: float
    scores: dict[str, float]
    """Its parts, each 0–1: ``vector`` and ``text`` or ``bm25``; and the ``recency`` factor."""
    name: str
    snippet: str
    url: str | None
    properties: dict[str, Any]
    source: HitSource
    realm: str


class SearchHits(BaseModel):
    """Hits, best first; ``space`` is None while nothing has been embedded.

    Where two spaces answered, ``beside`` is the second, and a hit's score comes from its ranks.
    """

    model_config = ConfigDict(frozen=True)

    hits: tuple[Hit, ...]
    took_ms: float
    space: SpaceId | None
    beside: SpaceId | None = None
