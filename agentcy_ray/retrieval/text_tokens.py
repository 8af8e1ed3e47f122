"""Tokenising apart from the model: whole windows of texts at once, on other threads than its own.

The tokenizer is a copy of the model's, set up once and then only read, so threads may share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]
"""Token ids of one text."""
_KNOWN = frozenset({"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"})
_PROBES = ("One text.", "and a second text, which is longer, and has 数据 in it: café " * 40, "")


@dataclass(frozen=True)
class TextTokens:
    """Makes what a model reads from texts."""

    tokenizer: Tokenizer
    pad_id: int
    prompt: str
    typed: bool
    """Whether the model reads types of tokens; those of a single text are all 0."""
    constant: dict[str, Any]
    """Features that no text changes."""

    @classmethod
    def of(cls, model: SentenceTransformer, longest: int) -> TextTokens | None:
        """Tokens as the model's own tokenizer makes them.

        Args:
            model: whose tokenizer it is.
            longest: tokens of a text that are read.

        Returns:
            None when the model has another kind of tokenizer, or this way gives other tokens.
        """
        try:
            found = cls._copy(model, longest)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None
        return found if found is not None and _same(found, model) else None

    @classmethod
    def _copy(cls, model: SentenceTransformer, longest: int) -> TextTokens | None:
        from tokenizers import Tokenizer

        own: Any = model.tokenizer
        prompt = prompt_of(model)
        features: dict[str, Any] = dict(model.preprocess(list(_PROBES[:1]), prompt=prompt))
        if not features.keys() <= _KNOWN or features.get("modality", "text") != "text":
            return None
        if own.padding_side != "right" or own.truncation_side != "right":
            return None
        copy = Tokenizer.from_str(own.backend_tokenizer.to_str())
        copy.no_padding()
        copy.enable_truncation(longest)
        constant = {key: features[key] for key in ("modality", "prompt_length") if key in features}
        return cls(copy, own.pad_token_id, prompt or "", "token_type_ids" in features, constant)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, cut to the model's length."""
        asked = [self.prompt + text for text in texts] if self.prompt else list(texts)
        return [np.asarray(one.ids, np.int64) for one in self.tokenizer.encode_batch_fast(asked)]

    def features(self, ids: Sequence[Ids], multiple: int = 1) -> dict[str, Any]:
        """One batch as the model takes it, tensors of shape (texts, tokens) on the CPU.

        Args:
            ids: of its texts.
            multiple: the width is rounded up to a multiple of this.
        """
        import torch

        width = -(-max(map(len, ids)) // multiple) * multiple
        padded = np.full((len(ids), width), self.pad_id, np.int64)
        mask = np.zeros((len(ids), width), np.int64)
        for row, one in enumerate(ids):
            padded[row, : len(one)] = one
            mask[row, : len(one)] = 1
        made: dict[str, Any] = {
            **self.constant,
            "input_ids": torch.from_numpy(padded),
            "attention_mask": torch.from_numpy(mask),
        }
        if self.typed:
            made["token_type_ids"] = torch.zeros_like(made["input_ids"])
        return made


Encode = Callable[[Sequence[str]], list[Ids]]


def prompt_of(model: SentenceTransformer) -> str | None:
    """What the model wants in front of every text."""
    return model.prompts.get(model.default_prompt_name or "") or None


def _same(ours: TextTokens, model: SentenceTransformer) -> bool:
    """Whether both give the same tokens for texts short, long and empty."""
    theirs: Any = model.preprocess(list(_PROBES), prompt=prompt_of(model))
    mine = ours.features(ours.encode(_PROBES))
    return all(
        mine[key].shape == theirs[key].shape and bool((mine[key] == theirs[key]).all())
        for key in ("input_ids", "attention_mask", "token_type_ids")
        if key in mine
    )
