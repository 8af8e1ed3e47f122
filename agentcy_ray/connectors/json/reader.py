"""Streams records out of JSON and NDJSON; neither file is ever held whole.

NDJSON is told apart by its suffix or by a first line that is a whole value with more behind it. A
bad NDJSON line is rejected and reading goes on; a broken JSON document cannot be read past the
break, so it fails the extract.
"""

from __future__ import annotations

import io
import os
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import Any, cast

import ijson
import orjson

from agentcy_ray.connectors.base import ExtractItem, Progress, Rejected
from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.inference import SAMPLE_ROWS
from agentcy_ray.connectors.json.config import JsonConfig, path_steps
from agentcy_ray.connectors.json.records import Item, RecordReader
from agentcy_ray.connectors.rows import GraphRows
from agentcy_ray.connectors.source_file import SourceFile, os_fault

_LINE_LIMIT = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_SUFFIXES = (".ndjson", ".jsonl")
_SHOWN_KEYS = 20


def read_json(
    config: JsonConfig, file: SourceFile, limit: int | None
) -> Generator[ExtractItem, None, None]:
    """Batches, rejects and progress of one file; at most ``limit`` records when it is given.

    Raises:
        SourceConfigError: the file does not open, is no JSON, or has nothing at ``records_path``.
    """
    try:
        with file.path.open("rb") as raw:
            lines = _is_ndjson(raw, file.name)
            items = islice(_lines(config, raw) if lines else _document(config, raw), limit)
            yield from _read(config, items, raw)
    except OSError as error:
        raise os_fault(file.path, error) from error
    except ijson.JSONError as error:
        raise fault("config", f"{file.name} is not valid JSON: {error}; mend the file") from error


def _read(
    config: JsonConfig, items: Iterator[Item | Rejected], raw: io.BufferedReader
) -> Iterator[ExtractItem]:
    sample = list(islice(items, SAMPLE_ROWS))
    reader = RecordReader(config, [item for item in sample if not isinstance(item, Rejected)])
    graph = GraphRows(config.node_label)
    size = os.fstat(raw.fileno()).st_size
    for item in chain(sample, items):
        record = item if isinstance(item, Rejected) else reader.record(item)
        if isinstance(record, Rejected):
            yield record
            continue
        try:
            batches = list(graph.add(record))
        except (TypeError, RecursionError):
            yield Rejected(cast("Item", item)[0], "it is nested too deeply")
            continue
        for batch in batches:
            yield batch
            yield Progress(raw.tell(), size, "bytes")
    yield from graph.flush()


def _is_ndjson(raw: io.BufferedReader, name: str) -> bool:
    try:
        if name.lower().endswith(_SUFFIXES):
            return True
        first = raw.readline(_LINE_LIMIT).removeprefix(_BOM)
        if not first.endswith(b"\n") or not first.strip():
            return False
        try:
            orjson.loads(first)
        except orjson.JSONDecodeError:
            return False
        return any(line.strip() for line in iter(lambda: raw.readline(_LINE_LIMIT), b""))
    finally:
        raw.seek(0)


def _lines(config: JsonConfig, raw: io.BufferedReader) -> Iterator[Item | Rejected]:
    steps, number = path_steps(config.records_path), 0
    while line := raw.readline(_LINE_LIMIT):
        number += 1
        where = f"line {number}"
        if len(line) == _LINE_LIMIT and not line.endswith(b"\n"):
            while (rest := raw.readline(_LINE_LIMIT)) and not rest.endswith(b"\n"):
                pass
            yield Rejected(where, f"the line is longer than {_LINE_LIMIT} bytes")
            continue
        body = (line.removeprefix(_BOM) if number == 1 else line).strip()
        if not body:
            continue
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            yield Rejected(where, f"it is not JSON: {error}")
            continue
        found = list(_at(value, steps))
        if not found:
            yield Rejected(where, f"it has nothing at {config.records_path!r}")
        for record in found:
            yield where, record


def _at(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    for step in steps:
        if not isinstance(value, dict) or step not in value:
            return
        value = cast("dict[str, Any]", value)[step]
    if steps and isinstance(value, list):
        yield from cast("list[Any]", value)
    else:
        yield value


def _document(config: JsonConfig, raw: io.BufferedReader) -> Iterator[Item | Rejected]:
    prefix = _records_prefix(config, raw)
    if prefix is None:
        return
    raw.seek(3 if raw.read(3) == _BOM else 0)
    for number, value in enumerate(ijson.items(raw, prefix), 1):
        yield f"record {number}", value


def _records_prefix(config: JsonConfig, raw: io.BufferedReader) -> str | None:
    """Where the records are, in ijson's notation; None for a file without content.

    Looks no further than the first value at ``records_path``, to learn whether it is a list.
    """
    wanted = ".".join(path_steps_with_items(config.records_path))
    raw.seek(3 if raw.read(3) == _BOM else 0)
    keys: list[str] = []
    try:
        for prefix, event, value in ijson.parse(raw):
            if prefix == "" and event == "map_key" and len(keys) < _SHOWN_KEYS:
                keys.append(str(value))
            if prefix == wanted and event not in {"map_key", "end_map", "end_array"}:
                raw.seek(0)
                listed = event == "start_array"
                return ".".join(part for part in (wanted, "item" if listed else "") if part)
    except ijson.IncompleteJSONError:
        raw.seek(0)
        if not raw.read(4096).removeprefix(_BOM).strip():
            return None
        raise
    raise fault(
        "config",
        f"the file has nothing at {config.records_path!r}; its top level"
        f" {'has ' + ', '.join(keys) if keys else 'is a list'}",
        loc="records_path",
    )


def path_steps_with_items(path: str) -> tuple[str, ...]:
    """A path in ijson's notation: ``[*]`` inside it becomes the step ``item``; a last one goes."""
    steps = [step for part in path.split(".") for step in part.replace("[*]", ".item").split(".")]
    steps = [step for step in steps if step and step != "$"]
    while path.endswith("[*]") and steps and steps[-1] == "item":
        steps.pop()
        path = path.removesuffix("[*]")
    return tuple(steps)
