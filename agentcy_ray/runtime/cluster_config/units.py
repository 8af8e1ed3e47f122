"""What several sections share: the strict base, sizes in bytes, and ``auto``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

AUTO = "auto"
"""In place of a number of session hosts, executors or API replicas: as ``hot_path`` needs."""

_FACTORS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(k|M|G|T|Ki|Mi|Gi|Ti|)B?")


class Section(BaseModel):
    """A part of the file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def parse_size(value: Any) -> Any:
    """Bytes of a size such as ``512Mi``; what is no text is left to the field's own check.

    Raises:
        ValueError: the text is no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is no size; write bytes or a number with Ki, Mi or Gi")
    return int(float(match[1]) * _FACTORS[match[2]])


def quantity(size: int) -> str:
    """A size as Kubernetes and people write it: whole Gi or Mi where it is, else bytes."""
    for unit in ("Gi", "Mi", "Ki"):
        if size and size % _FACTORS[unit] == 0:
            return f"{size // _FACTORS[unit]}{unit}"
    return str(size)


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0),
    WithJsonSchema({
        "anyOf": [{"type": "integer", "minimum": 0},
                  {"type": "string", "pattern": r"^\d+(\.\d+)? ?(k|M|G|T|Ki|Mi|Gi|Ti)?B?$"}],
    }),
]  # fmt: skip
"""Bytes: an integer, or text with a unit, ``512Mi``."""

Count = Annotated[
    int,
    Field(ge=1),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": AUTO}]}),
]
"""How many; ``auto`` has become a number before this is checked."""
