"""Chunkers by the signature of their cut: a space stays cut as it was begun."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.retrieval.chunking import Chunker
from agentcy_ray.retrieval.space import CHUNKING_VERSION, chunking_signature

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from agentcy_ray.core.settings import Settings

_SIGNATURE = re.compile(r"tokens=(\d+),overlap=(\d+),v=(\d+)")


class Chunkers:
    """Makes each chunker once; the settings may have changed since a space was made."""

    def __init__(self, tokenizer: Tokenizer, settings: Settings) -> None:
        self._tokenizer = tokenizer
        self._default = chunking_signature(settings)
        self._made: dict[str, Chunker] = {}

    def of(self, chunking: str) -> Chunker:
        """The chunker of a signature; of the settings where a space has none written down.

        Raises:
            InvalidError: another version of the product made the signature.
        """
        signature = chunking or self._default
        chunker = self._made.get(signature)
        if chunker is None:
            parts = _SIGNATURE.fullmatch(signature)
            if parts is None or int(parts[3]) != CHUNKING_VERSION:
                raise InvalidError(
                    f"texts cannot be cut as {signature!r} says, which another version wrote; "
                    "swap to a new space (`agentcy embed swap`), then drop this one",
                    chunking=signature,
                )
            chunker = Chunker(self._tokenizer, int(parts[1]), int(parts[2]))
            self._made[signature] = chunker
        return chunker
