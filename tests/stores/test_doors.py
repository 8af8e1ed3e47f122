"""Nothing but what is listed here opens connections, and none of it to a host of a tenant."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.trees import parsed

ROOT = Path(__file__).parents[2]
CODE = ROOT / "agentcy_ray"


def words(text: str) -> list[str]:
    """What is parted by blanks."""
    return text.split()


DOORS = words("""
httpx*.AsyncClient httpx*.Client httpx*.*HTTPTransport httpx*.get httpx*.post httpx*.put
httpx*.patch httpx*.delete httpx*.head httpx*.options httpx*.request httpx*.stream
httpcore*.*ConnectionPool httpcore*.*Proxy httpcore*.AnyIOBackend httpcore*.request
httpcore*.stream urllib.request* http.client* requests* aiohttp* websockets* ftplib* smtplib*
imaplib* poplib* telnetlib* xmlrpc* socketserver* paramiko* asyncssh* hvac* grpc* curl_cffi*
urllib3* tornado* boto3* botocore* aiobotocore* google.auth* google.cloud* google.genai* azure*
openai* anthropic* mcp* huggingface_hub* authlib.integrations* fsspec* pyarrow.fs* duckdb*
adbc_driver* pydantic_ai.providers* qdrant_client.*Client pinecone.*Index pinecone.*Pinecone
obstore.store.S3Store obstore.store.*Azure* obstore.store.GCS* obstore.store.HTTP*
obstore.store.from_url pyarrow.flight.FlightClient pyarrow.flight.connect asyncpg.connect
asyncpg.create_pool neo4j.*GraphDatabase* redis*.Redis redis*.from_url redis*.ConnectionPool
redis*.Connection socket.socket socket.create_connection socket.getaddrinfo socket.gethostby*
pygit2.clone_repository *.open_connection *.open_unix_connection *.create_connection
*.create_datagram_endpoint *.sock_connect *.getaddrinfo *.create_anonymous *.list_heads
*.ls_remotes *.urlopen anyio.connect_*
""")
"""What opens a connection, or resolves a name, by the library's name and the object in it."""


def listed() -> set[str]:
    """The modules that docs/egress.md explains, in the table of its last section."""
    text = (ROOT / "docs/egress.md").read_text().partition("## What opens connections")[2]
    return set(re.findall(r"^\| `([a-z_/]+\.py)` \|", text, re.MULTILINE))


class _Uses(ast.NodeVisitor):
    """Full names of all that a module uses; what it only names as a type is left out."""

    def __init__(self, tree: ast.Module) -> None:
        self._names = dict(_imports(tree))
        self.found: set[str] = set()
        self.visit(tree)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Its annotation is a type."""

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        node.returns = None
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self._names:
            self.found.add(self._names[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            parts.append(root.attr)
            root = root.value
        if isinstance(root, ast.Name):
            parts.append(self._names.get(root.id, f"<{root.id}>"))
            self.found.add(".".join(reversed(parts)))
        else:
            self.found.add(".".join(["<>", *reversed(parts)]))
            self.visit(root)


def doors_in(path: Path) -> set[str]:
    """The doors that a module uses, by their full names."""
    used = _Uses(parsed(path)).found
    return {name for name in used if any(fnmatchcase(name, door) for door in DOORS)}


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield bound, alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module or ''}.{alias.name}"


@pytest.mark.requirement("SEC-04", "CON-06")
def test_connections_are_opened_where_it_is_written_down_and_nowhere_else() -> None:
    found = {str(p.relative_to(CODE)): doors_in(p) for p in sorted(CODE.rglob("*.py"))}
    found = {path: doors for path, doors in found.items() if doors}
    unexplained = {path: doors for path, doors in found.items() if path not in listed()}
    assert not unexplained, f"open connections by open_http, or explain it: {unexplained}"
    assert listed() == found.keys()


def test_no_client_trusts_any_certificate_or_follows_redirects_by_itself() -> None:
    loose = re.compile(r"verify=False|CERT_NONE|check_hostname ?= ?False|follow_redirects=True")
    ours = (path for path in CODE.rglob("*.py") if loose.search(path.read_text()))
    assert not list(ours)


@pytest.mark.parametrize(
    "code",
    [
        "import httpx2\nhttpx2.AsyncClient()",
        "import httpx2 as h\nasync def f(): return await h.AsyncClient().get('x')",
        "from httpx import get\nget('x')",
        "from urllib import request\nrequest.urlopen('x')",
        "import asyncio\nasync def f(): await asyncio.open_connection('x', 1)",
        "async def f(loop): await loop.create_connection(None, 'x', 1)",
        "import socket\nsocket.socket()",
        "def f(repo): repo.remotes.create_anonymous('x').fetch()",
        "import aiohttp\nclass C(aiohttp.ClientSession): pass",
        "from websockets.asyncio.client import connect\nconnect('x')",
    ],
)
def test_a_new_door_would_be_seen(tmp_path: Path, code: str) -> None:
    module = tmp_path / "module.py"
    module.write_text(code)
    assert doors_in(module)


@pytest.mark.parametrize(
    "code",
    [
        "import httpx2\ndef f(c: httpx2.AsyncClient) -> httpx2.Client: ...",
        "requests = []\nrequests.append(1)",
        "import httpx2\ntry: ...\nexcept httpx2.HTTPError: ...",
    ],
)
def test_what_opens_nothing_is_not_taken_for_a_door(tmp_path: Path, code: str) -> None:
    module = tmp_path / "module.py"
    module.write_text(code)
    assert not doors_in(module)
