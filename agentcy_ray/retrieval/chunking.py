"""Cutting bodies into chunks at headings, paragraphs, code blocks and definitions.

The cutting is done by ``semantic-text-splitter``; its three splitters share one rule: take the
largest unit of the text's own structure that fits. Lengths are tokens of the embedder's tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agentcy_ray.core.errors import ConfigError

if TYPE_CHECKING:
    from semantic_text_splitter import CodeSplitter, MarkdownSplitter, TextSplitter
    from tokenizers import Tokenizer

    Splitter = CodeSplitter | MarkdownSplitter | TextSplitter


class Grammar(NamedTuple):
    """A tree-sitter grammar: the module that holds it and the function that gives it."""

    module: str
    function: str = "language"


_PYTHON = Grammar("tree_sitter_python")
_JAVASCRIPT = Grammar("tree_sitter_javascript")
_TYPESCRIPT = Grammar("tree_sitter_typescript", "language_typescript")
_TSX = Grammar("tree_sitter_typescript", "language_tsx")
_GO = Grammar("tree_sitter_go")
_RUST = Grammar("tree_sitter_rust")
_JAVA = Grammar("tree_sitter_java")

GRAMMARS: dict[str, Grammar] = {
    "python": _PYTHON,
    "javascript": _JAVASCRIPT,
    "jsx": _JAVASCRIPT,
    "ecmascript": _JAVASCRIPT,
    "typescript": _TYPESCRIPT,
    "tsx": _TSX,
    "go": _GO,
    "rust": _RUST,
    "java": _JAVA,
}
"""By the last part of a media type, without ``x-``: ``text/x-python`` → ``python``."""

MARKDOWN = frozenset({"markdown", "mdx"})
MAX_LINE_CHARS = 2_000
"""Code with longer lines is generated or packed: it is cut as plain text."""
MAX_CHARS_PER_TOKEN = 16
"""A tokenizer may call any unbroken run one token; no chunk gets longer than this allows."""


class Chunker:
    """Cuts texts into chunks of at most ``tokens`` tokens, neighbours sharing ``overlap``."""

    def __init__(self, tokenizer: Tokenizer, tokens: int, overlap: int) -> None:
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._overlap = overlap
        self._splitters: dict[str, Splitter] = {}

    def chunk(self, text: str, media_type: str = "text/plain") -> list[str]:
        """Chunks of ``text`` in order, trimmed, none empty.

        Args:
            text: the body; HTML and Office files come as Markdown or text already.
            media_type: Markdown and the languages of ``GRAMMARS`` are cut by their structure,
                everything else as plain text.
        """
        # A token has at least one character, in ASCII also after every normalisation; two tokens
        # are for what some models put around a text. Most canonical texts are this short.
        if len(text) + 2 <= self._tokens and text.isascii() and "\x00" not in text:
            whole = text.strip()
            return [whole] if whole else []
        text = text.replace("\x00", "")  # Postgres text cannot hold it
        kind = _kind(media_type)
        if kind in GRAMMARS and _packed(text):
            kind = "text"
        limit = self._tokens * MAX_CHARS_PER_TOKEN
        chunks = self._splitter(kind).chunks(text)
        return [
            piece
            for chunk in chunks
            for start in range(0, len(chunk), limit)
            if (piece := chunk[start : start + limit].strip())
        ]

    def _splitter(self, kind: str) -> Splitter:
        splitter = self._splitters.get(kind)
        if splitter is None:
            splitter = self._splitters[kind] = self._make(kind)
        return splitter

    def _make(self, kind: str) -> Splitter:
        from semantic_text_splitter import CodeSplitter, MarkdownSplitter, TextSplitter

        size = (self._tokenizer, self._tokens, self._overlap)
        if kind in MARKDOWN:
            return MarkdownSplitter.from_huggingface_tokenizer(*size)
        if grammar := GRAMMARS.get(kind):
            language: Callable[[], Any] = getattr(import_module(grammar.module), grammar.function)
            return CodeSplitter.from_huggingface_tokenizer(language(), *size)
        return TextSplitter.from_huggingface_tokenizer(*size)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``, counting whole texts.

    Raises:
        ConfigError: the file is absent or is no tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(
            f"{path} is no tokenizer ({error}); name the tokenizer.json of a model folder"
        ) from error
    # A tokenizer that truncates or pads would report every long text as equally long.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _kind(media_type: str) -> str:
    last = media_type.partition(";")[0].strip().lower().rpartition("/")[2]
    return last.removeprefix("x-")


def _packed(text: str) -> bool:
    return any(len(line) > MAX_LINE_CHARS for line in text.splitlines())
