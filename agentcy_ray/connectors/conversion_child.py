"""What the process of ``conversion.py`` does: markitdown's converters, called one by one.

It is run by its path and imports nothing of ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import markitdown
import markitdown.converters
import orjson


def convert(message: dict[str, Any], data: bytes) -> bytes:
    """JSON of the Markdown and the title of a file."""
    made: Any = getattr(markitdown.converters, message["converter"])()
    about = markitdown.StreamInfo(extension=message["suffix"], charset="utf-8")
    result = made.convert(io.BytesIO(data), about)
    # A lone surrogate is in no text that could be stored.
    text = result.markdown.encode("utf-8", "replace").decode()
    title = result.title.encode("utf-8", "replace").decode() if result.title else None
    return orjson.dumps([text, title])


def handler() -> Callable[[dict[str, Any], bytes], bytes]:
    """For ``killable_child.py``."""
    return convert
