"""What a member of a ``require_approval`` set asks for.

A text is a reason, and one person with the full grant is enough. An object says more:
``{"msg": "…", "quorum": 2, "second_person": true}``. ``msg`` alone is needed; an object without it
is itself the reason, as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from agentcy_ray.core.errors import PolicyInvalidError

QUORUM_MAX = 10
_KEYS = frozenset({"msg", "quorum", "second_person"})


@dataclass(frozen=True)
class Ask:
    """One policy's wish: why, how many people, and whether the requester may be one of them."""

    reason: str
    quorum: int = 1
    second_person: bool = False


def ask_of(item: Any) -> Ask:
    """Read a member of a ``require_approval`` set.

    Raises:
        PolicyInvalidError: an object with a ``msg`` has a key or a value that means nothing; a
            quorum that was misspelt must not become a quorum of one.
    """
    if not isinstance(item, dict) or "msg" not in item:
        return Ask(message_of(item))
    quorum, second = item.get("quorum", 1), item.get("second_person", False)
    unknown = ", ".join(sorted(map(str, item.keys() - _KEYS)))
    if unknown:
        raise PolicyInvalidError(
            f"require_approval knows msg, quorum, second_person; not {unknown}"
        )
    if not isinstance(quorum, int) or isinstance(quorum, bool) or not 1 <= quorum <= QUORUM_MAX:
        raise PolicyInvalidError(f"require_approval wants a quorum of 1 to {QUORUM_MAX}")
    if not isinstance(second, bool):
        raise PolicyInvalidError("require_approval wants second_person to be true or false")
    return Ask(message_of(item["msg"]), quorum, second)


def strictest(asks: Iterable[Ask]) -> tuple[int, bool]:
    """Quorum and second person of several asks together: whoever asks for more gets it."""
    asked = list(asks)
    return (
        max((ask.quorum for ask in asked), default=1),
        any(ask.second_person for ask in asked),
    )


def message_of(item: Any) -> str:
    """A member of a deciding set as text."""
    return item if isinstance(item, str) else orjson.dumps(item, default=str).decode()
