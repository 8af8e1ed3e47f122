"""Pages, Office files and PDFs to Markdown, in a process with a limit of time and memory.

A spreadsheet of a kilobyte can name a cell so far out that its rows fill the memory, a PDF can lead
in circles, and Python's parser of HTML takes the square of some texts' length: no check beforehand
finds all of that, so each file has its own limits, and one that passes them is a fault of that
file.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from agentcy_ray.stores.killable import Killable

MEMORY_BYTES = 1024 * 1024 * 1024
CPU_SECS = 20.0
"""CPU seconds of one file; a PDF of text takes some 50 ms a page."""
_CHILD = Path(__file__).with_name("conversion_child.py")


class Conversion:
    """Converts files one after another; the process starts with the first one."""

    def __init__(self, cpu_secs: float = CPU_SECS) -> None:
        self._process = Killable(_CHILD, MEMORY_BYTES)
        self._cpu_secs = cpu_secs

    def convert(self, converter: str, suffix: str, data: bytes) -> tuple[str, str | None]:
        """Markdown of a file, and the title that the file gives itself.

        Args:
            converter: name of a class in ``markitdown.converters``.
            suffix: of the file's name, with its dot.
            data: the whole file.

        Raises:
            KillableError: it cannot be read, or takes too much to.
        """
        message = {"converter": converter, "suffix": suffix}
        answer, _ = self._process.ask(message, data, self._cpu_secs)
        text, title = orjson.loads(answer)
        return text, title

    def close(self) -> None:
        """End the process."""
        self._process.close()
