"""A sentence-transformers model with random weights, for machines that have none and no network.

What a model costs depends on its shape alone, so one of the shape of a real model is as good as it
for speed. Needs transformers, sentence-transformers and what these bring along.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

CLS, SEP, PAD, MASK, UNKNOWN = "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"


@dataclass(frozen=True)
class Shape:
    """Of a BERT: what its speed depends on."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    positions: int = 512


MINILM = Shape(layers=6, hidden=384, heads=12, vocabulary=30_000)
BASE = Shape(layers=12, hidden=768, heads=12, vocabulary=30_000)


def make_model(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """Write a model into ``folder``, which is made; returns the folder.

    The same shape and seed give the same weights.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    bare = folder / "bare"
    bare.mkdir(parents=True)
    tokenizer = BertTokenizerFast(
        tokenizer_object=_tokenizer(shape.vocabulary, seed),
        cls_token=CLS, sep_token=SEP, pad_token=PAD, mask_token=MASK, unk_token=UNKNOWN,
        model_max_length=shape.positions,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=shape.hidden,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            intermediate_size=4 * shape.hidden, max_position_embeddings=shape.positions,
        )  # fmt: skip
        model = BertModel(config)
    with torch.no_grad():  # what all tokens share would make all texts alike
        model.embeddings.token_type_embeddings.weight.zero_()
        model.embeddings.position_embeddings.weight.mul_(0.2)
    model.save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    words = Transformer(str(bare), max_seq_length=shape.positions)
    pooling = Pooling(shape.hidden, pooling_mode="mean")
    whole = SentenceTransformer(modules=[words, pooling, Normalize()], device="cpu")
    whole.save(str(folder), create_model_card=False)
    shutil.rmtree(bare)
    return folder


def made_texts(count: int, *, seed: int = 0, longest: int = 400) -> list[str]:
    """Texts of words that nobody speaks, most of them short and some long, as chunks are.

    Args:
        count: how many.
        seed: the same gives the same texts.
        longest: words of the longest.
    """
    random = Random(seed)
    words = _words(random, 4_000)
    lengths = [min(longest, 4 + int(random.lognormvariate(4.0, 0.9))) for _ in range(count)]
    return [" ".join(random.choices(words, k=length)) for length in lengths]


def _words(random: Random, count: int) -> list[str]:
    syllables = [a + b for a in "bcdfghjklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er")]
    return ["".join(random.choices(syllables, k=random.randint(1, 4))) for _ in range(count)]


def _tokenizer(vocabulary: int, seed: int) -> object:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))  # pyright: ignore[reportCallIssue]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [PAD, UNKNOWN, CLS, SEP, MASK]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=special, show_progress=False,
        initial_alphabet=[chr(code) for code in range(33, 127)],
    )  # fmt: skip
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=ends
    )
    return tokenizer


def _corpus(seed: int) -> Iterator[str]:
    yield from made_texts(400, seed=seed)
    yield from (Path(__file__).read_text(), __doc__ or "")
