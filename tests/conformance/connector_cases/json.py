from pathlib import Path
from typing import Any

import orjson

from agentcy_ray.connectors.json import JsonConnector
from tests.conformance.connector_suite import ConnectorCase, Prepared

RECORDS = [
    {"id": 1, "name": "one", "owner": {"id": "a", "name": "Ada"}, "tags": ["x", "y"], "size": 1.5},
    {"id": 2, "name": "two", "owner": {"id": "b", "name": "Bob"}, "tags": [], "deep": {"k": [1]}},
]
CONFIG: dict[str, Any] = {
    "node_label": "Thing",
    "id_path": "id",
    "relationship_paths": [
        {"path": "owner", "type": "OWNED_BY", "label": "Person"},
        {"path": "tags", "type": "TAGGED", "label": "Tag"},
    ],
}


def prepare_document(folder: Path) -> Prepared:
    path = folder / "things.json"
    path.write_bytes(orjson.dumps({"data": {"items": RECORDS}}, option=orjson.OPT_INDENT_2))
    config = {**CONFIG, "file_path": str(path), "records_path": "data.items"}
    return Prepared(config, file_roots=(folder,))


def prepare_lines(folder: Path) -> Prepared:
    path = folder / "things.txt"
    path.write_bytes(b"\n".join(orjson.dumps(record) for record in RECORDS) + b"\n")
    return Prepared({**CONFIG, "file_path": str(path)}, file_roots=(folder,))


CASES = [
    ConnectorCase("json-document", JsonConnector, prepare_document, effects={}),
    ConnectorCase("json-lines", JsonConnector, prepare_lines, effects={}),
]
