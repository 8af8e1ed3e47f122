"""Reads delimited text row by row: a bad row is rejected with its line, the rest goes on.

A cell holds up to 131,072 characters, the limit of Python's reader, which also bounds what an
unclosed quote can swallow; a line holds up to 16 Mi characters.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Generator, Iterator
from itertools import chain, islice

from charset_normalizer import from_bytes

from agentcy_ray.connectors.base import ExtractItem, Progress, Rejected
from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.csv.config import CsvConfig
from agentcy_ray.connectors.csv.table import Row, Table
from agentcy_ray.connectors.inference import SAMPLE_ROWS
from agentcy_ray.connectors.rows import GraphRows
from agentcy_ray.connectors.source_file import SourceFile, os_fault
from agentcy_ray.core.errors import SourceConfigError

_LINE_LIMIT = 16 * 1024 * 1024
_GUESS_BYTES = 64 * 1024


def read_csv(
    config: CsvConfig, file: SourceFile, limit: int | None
) -> Generator[ExtractItem, None, None]:
    """Batches, rejects and progress of one file; at most ``limit`` rows when it is given.

    Raises:
        SourceConfigError: the file does not open, decode, or have the configured columns.
    """
    limits = [rows for rows in (limit, config.max_rows) if rows is not None]
    try:
        with file.path.open("rb") as raw:
            text = io.TextIOWrapper(raw, config.codec, errors="surrogateescape", newline="")
            rows = _rows(config, text)
            first = next(rows, None)
            if isinstance(first, Rejected):
                raise _unreadable(config, file, first.reason)
            if first is not None:
                yield from _read(config, first, rows, raw, min(limits, default=None))
    except OSError as error:
        raise os_fault(file.path, error) from error
    except UnicodeError as error:
        raise _unreadable(config, file, f"it is not {config.encoding} text") from error


def _read(
    config: CsvConfig,
    first: Row,
    rows: Iterator[Row | Rejected],
    raw: io.BufferedReader,
    limit: int | None,
) -> Iterator[ExtractItem]:
    rows = islice(rows if config.has_header else chain([first], rows), limit)
    sample = list(islice(rows, SAMPLE_ROWS))
    table = Table(config, first, [row for row in sample if not isinstance(row, Rejected)])
    graph = GraphRows(config.node_label)
    size = os.fstat(raw.fileno()).st_size
    for row in chain(sample, rows):
        record = row if isinstance(row, Rejected) else table.record(row)
        if isinstance(record, Rejected):
            yield record
            continue
        for batch in graph.add(record):
            yield batch
            yield Progress(raw.tell(), size, "bytes")
    yield from graph.flush()


class _Lines:
    """Lines of a text file; one beyond the limit is an error, after which reading goes on."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_LINE_LIMIT)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) < _LINE_LIMIT or line[-1] in "\r\n":
            return line
        while (rest := self._text.readline(_LINE_LIMIT)) and rest[-1] not in "\r\n":
            pass
        raise csv.Error(f"the line is longer than {_LINE_LIMIT} characters")


def _rows(config: CsvConfig, text: io.TextIOWrapper) -> Iterator[Row | Rejected]:
    """Rows with the line that each starts at; blank lines are passed over."""
    lines = _Lines(text)
    for _ in islice(lines, config.skip_rows):
        pass
    reader = csv.reader(lines, delimiter=config.delimiter, strict=True)
    while True:
        line = lines.number + 1
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if cells:
                "\x1f".join(cells).encode()
                yield line, cells
        except csv.Error as error:
            yield Rejected(f"line {line}", str(error))
        except UnicodeEncodeError:  # a byte that did not decode came through as a surrogate
            yield Rejected(f"line {line}", f"it is not {config.encoding} text")


def _unreadable(config: CsvConfig, file: SourceFile, reason: str) -> SourceConfigError:
    with file.path.open("rb") as raw:
        guess = from_bytes(raw.read(_GUESS_BYTES)).best()
    hint = "check delimiter, encoding and skip_rows"
    if guess is not None and guess.encoding not in {config.encoding.replace("-", "_"), "ascii"}:
        hint = f"encoding {guess.encoding!r} would read it"
    return fault("config", f"{file.name} cannot be read as a table: {reason}; {hint}")
