"""Syntax trees of source files, for tests that read the code."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """The tree of a file.

    The collector rests meanwhile: in Python 3.11 a finalizer that runs while a tree is built ends
    the parser with a SystemError about its depth (CPython's gh-106905).
    """
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()
