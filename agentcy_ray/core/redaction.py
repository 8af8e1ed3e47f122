"""Taking secrets out of what people, models and logs get to see.

Three nets: exact values (credentials that this process knows), the shapes of well-known keys, and
fields that are named like a secret. The third is for arguments only: a result may well have a
``next_page_token`` that the model needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from pydantic import BaseModel, SecretStr

MASK = "[redacted]"
_STRICT = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
SHORTEST = 8
"""A known value shorter than this is not looked for: it would mask ordinary words."""

_SHAPES: tuple[tuple[str, str], ...] = (  # a piece that any match holds, and the whole shape
    (
        "-----BEGIN",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    ),
    ("AKIA", r"\bAKIA[0-9A-Z]{16}\b"),
    ("ASIA", r"\bASIA[0-9A-Z]{16}\b"),
    ("gh", r"\bgh[pousr]_[0-9A-Za-z]{30,}\b"),
    ("github_pat_", r"\bgithub_pat_[0-9A-Za-z_]{30,}\b"),
    ("glpat-", r"\bglpat-[0-9A-Za-z_-]{20,}"),
    ("xox", r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}"),
    ("sk-", r"\bsk-[0-9A-Za-z_-]{20,}"),
    ("sk_live_", r"\bsk_live_[0-9A-Za-z]{16,}"),
    ("AIza", r"\bAIza[0-9A-Za-z_-]{35}"),
    ("eyJ", r"\beyJ[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"),
    ("agk_", r"\bagk_[0-9A-Za-z_-]{20,}"),
    ("ctx_", r"\bctx_[0-9A-Za-z]{32}\b"),
    ("whsec_", r"\bwhsec_[0-9A-Za-z+/=_-]{16,}"),
    ("://", r"(?<=://)[^\s/:@]*:[^\s/@]+(?=@)"),
)
_COMPILED = tuple((mark, re.compile(shape)) for mark, shape in _SHAPES)
_MARKS = re.compile(  # what one of the shapes, or a NUL, may be behind; in JSON
    rb"-----BEGIN|A(?:KIA|SIA|Iza)|g(?:h[pousr]_|ithub_pat_|lpat-)|xox|sk[-_]|eyJ|agk_|ctx_|whsec_"
    rb"|://|\\u0000"
)
_SECRET_FIELD = re.compile(
    r"(?:pass(?:word|wd|phrase)|secret|api_?key|access_?key|private_?key|authorization"
    r"|(?:access|refresh|auth|bearer)_?token|client_?secret|credentials?)$",
    re.IGNORECASE,
)

_SECRET_ENDS = tuple(  # the last letters of such names, as they stand in JSON
    f'{end}":'.encode()
    for end in ("word", "passwd", "phrase", "secret", "key", "zation", "token", "tial", "tials")
)


def is_secret_field(name: str) -> bool:
    """Whether a field of this name holds a secret, as far as its name tells."""
    return _SECRET_FIELD.search(name) is not None


class Redactor:
    """Masks secrets in text and in JSON; holds no more state than the values it looks for."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        known = sorted({value for value in values if len(value) >= SHORTEST}, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, known))) if known else None
        self._pieces = re.compile(b"|".join(map(re.escape, _in_json(known)))) if known else None

    def text(self, text: str) -> str:
        """``text`` without secrets, and without what JSON columns cannot hold."""
        if self._values is not None:
            text = self._values.sub(MASK, text)
        for mark, shape in _COMPILED:
            if mark in text:
                text = shape.sub(MASK, text)
        if "\x00" in text:
            text = text.replace("\x00", "\ufffd")
        return text if text.isascii() else text.encode("utf-8", "replace").decode()

    def json(self, value: Any, *, by_field: bool = False) -> Any:
        """A JSON value without secrets; the given one is not changed.

        Integers beyond 64 bits and whatever is no JSON become text.

        Args:
            value: any JSON value.
            by_field: also mask texts in fields that are named like a secret.
        """
        try:
            text = orjson.dumps(value, option=_STRICT)
        except TypeError:  # no plain JSON: the walk makes it so
            return self._walk(value, by_field)
        return value if self.harmless(text, by_field=by_field) else self._walk(value, by_field)

    def harmless(self, text: bytes, *, by_field: bool = False) -> bool:
        """Whether nothing in JSON of ``orjson`` can be a secret: one look, not one per text."""
        if _MARKS.search(text) or (self._pieces is not None and self._pieces.search(text)):
            return False
        if by_field:
            lower = text.lower()
            for end in _SECRET_ENDS:
                if end in lower:
                    return False
        return True

    def _walk(self, value: Any, by_field: bool) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): MASK
                if by_field and isinstance(item, str) and item and _SECRET_FIELD.search(str(key))
                else self._walk(item, by_field)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._walk(item, by_field) for item in value]
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**64 else str(value)
        return self.text(str(value))


def _in_json(values: Iterable[str]) -> set[bytes]:
    """Texts as they are, and as they stand between the quotes of a JSON string."""
    plain = {value.encode("utf-8", "replace") for value in values}
    return plain | {orjson.dumps(value.decode())[1:-1] for value in plain}


def secrets_of(model: BaseModel) -> list[str]:
    """The values of a model's ``SecretStr`` fields; of the settings: what no result may show."""
    fields = (getattr(model, name) for name in type(model).model_fields)
    return [field.get_secret_value() for field in fields if isinstance(field, SecretStr)]
