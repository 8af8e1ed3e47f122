"""``agentcy search``, ``query``, ``graph``, ``realms``: looking into the Context Engine."""

from __future__ import annotations

from textwrap import shorten
from typing import Annotated, Any

import orjson
import typer

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import (
    JsonFlag,
    cell,
    console,
    notes,
    print_json,
    print_rows,
    print_table,
)
from agentcy_ray.cli.session import call
from agentcy_ray.core.errors import BadRequestError

graph = typer.Typer(help="The graph: neighbors, stats.", no_args_is_help=True)

ARROW = "application/vnd.apache.arrow.stream"
ARROW_ROWS = 5_000_000
SNIPPET = 160
"""Characters of a hit's text that a table shows."""

Realms = Annotated[list[str] | None, typer.Option("--realm", help="Only these realms.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("search")(search)
    app.command("query")(query)
    app.command("realms")(realms)
    app.add_typer(graph, name="graph")


def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    realm: Realms = None,
    top_k: Annotated[int, typer.Option(help="Number of hits, 1–100.")] = 10,
    json: JsonFlag = False,
) -> None:
    """Hybrid search: vectors and text in one statement."""
    body: dict[str, Any] = {"query": text, "top_k": top_k}
    if realm:
        body["realms"] = realm
    answer = call(lambda client: client.post("/rag/hybrid", body))
    if json:
        print_json(answer)
        return
    rows = [
        {
            "score": f"{hit['score']:.3f}",
            "label": (hit["labels"] or [""])[0],
            "name": hit["name"],
            "snippet": shorten(hit["snippet"], SNIPPET, placeholder=" …"),
            "node": hit["node_id"],
        }
        for hit in answer["hits"]
    ]
    print_rows(rows, ["score", "label", "name", "node", "snippet"])
    notes().print(f"[dim]{answer['took_ms']:.0f} ms[/]")


def query(
    text: Annotated[str, typer.Argument(help="The query.")],
    language: Annotated[str, typer.Option(help="cypher, kql or sql.")] = "cypher",
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A parameter key=value.")
    ] = None,
    realm: Realms = None,
    limit: Annotated[
        int | None, typer.Option(help="Rows at most; 100, or 5,000,000 with --arrow.")
    ] = None,
    arrow: Annotated[
        str | None, typer.Option(help="Write the rows to this file as an Arrow stream; - = stdout.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run a read-only query inside your organisation's graph."""
    body: dict[str, Any] = {
        "language": language,
        "query": text,
        "params": _params(param),
        "limit": limit or (100 if arrow is None else ARROW_ROWS),
    }
    if realm:
        body["realms"] = realm
    if arrow is not None:
        size = call(
            lambda client: client.download("/context/query", arrow, body=body, accept=ARROW)
        )
        if json and arrow != "-":
            print_json({"file": arrow, "bytes": size})
        else:
            notes().print(f"[dim]{size:,} bytes[/]")
        return
    answer = call(lambda client: client.post("/context/query", body))
    if json:
        print_json(answer)
        return
    names = [column["name"] for column in answer["columns"]]
    print_table(answer["rows"], names, brief=True)
    cut = " · cut at the limit" if answer["truncated"] else ""
    notes().print(f"[dim]{answer['row_count']} rows · {answer['took_ms']:.0f} ms{cut}[/]")
    for warning in answer.get("warnings", []):
        notes().print(warning, style="yellow", markup=False)


def realms(json: JsonFlag = False) -> None:
    """The realms of the graph."""
    rows = call(lambda client: client.items("/realms"))
    if json:
        print_json(rows)
    else:
        print_rows(rows, ["name", "built_in", "description"])


@graph.command()
def neighbors(
    node: Annotated[str, typer.Argument(help="Id of a node (n_…), or words of its name.")],
    depth: Annotated[int, typer.Option(min=1, max=3, help="Hops.")] = 1,
    limit: Annotated[int, typer.Option(help="Nodes at most.")] = 50,
    json: JsonFlag = False,
) -> None:
    """What lies around a node."""

    async def work(client: Client) -> Any:
        node_id = node if node.startswith("n_") else await _by_name(client, node)
        return await client.get(f"/context/nodes/{node_id}/neighbors", depth=depth, limit=limit)

    answer = call(work)
    if json:
        print_json(answer)
        return
    names = {n["id"]: f"{n['labels'][0]} {n['name']}" for n in answer["nodes"]}
    rows = [
        {
            "from": names.get(edge["src"], edge["src"]),
            "type": edge["type"],
            "to": names.get(edge["dst"], edge["dst"]),
        }
        for edge in answer["edges"]
    ]
    print_rows(rows, ["from", "type", "to"])
    if answer["truncated"]:
        notes().print("[yellow]more lie there; raise --limit[/]")


@graph.command()
def stats(json: JsonFlag = False) -> None:
    """Counts by label, edge type and realm."""
    answer = call(lambda client: client.get("/context/stats"))
    if json:
        print_json(answer)
        return
    console().print(f"{answer['nodes']:,} nodes, {answer['edges']:,} edges")
    for title in ("labels", "types", "realms"):
        rows = [{"name": name, "count": f"{n:,}"} for name, n in answer[title].items()]
        if rows:
            print_rows(rows, ["name", "count"], title=title)


async def _by_name(client: Client, words: str) -> str:
    answer = await client.get("/context/search", q=words, limit=1)
    if not answer["hits"]:
        raise BadRequestError(f"no node matches {words!r}; try `agentcy search {cell(words)}`")
    return str(answer["hits"][0]["id"])


def _params(options: list[str] | None) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for option in options or []:
        key, separator, value = option.partition("=")
        if not separator:
            raise BadRequestError(f"--param {option!r} is not key=value")
        try:
            params[key] = orjson.loads(value)
        except orjson.JSONDecodeError:
            params[key] = value
    return params
