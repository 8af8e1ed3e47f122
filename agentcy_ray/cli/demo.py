"""``agentcy demo``: the main job, end to end, on embedded servers.

Sync a repository, look at the graph, search, ask with citations, act with one approval, read the
audit. Every step goes through the public API, as any client would.
"""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import typer

from agentcy_ray.cli import engine
from agentcy_ray.cli.chat import decide, show, start
from agentcy_ray.cli.client import Client
from agentcy_ray.cli.output import (
    JsonFlag,
    console,
    print_json,
    print_rows,
    print_table,
)
from agentcy_ray.cli.patience import until
from agentcy_ray.cli.server import report, start_detached, stop_process
from agentcy_ray.cli.sources import watch
from agentcy_ray.cli.tools import ended
from agentcy_ray.connectors.roots import allow_root
from agentcy_ray.core.errors import AgentcyError, BackendError, BadRequestError, ConflictError
from agentcy_ray.core.settings import Settings, export_environment
from agentcy_ray.serve.launch import Running, read_running
from agentcy_ray.stores.embedded import stop_embedded
from agentcy_ray.stores.embedded.ports import is_free


class ContextEngineName(StrEnum):
    """What ``CONTEXT_ENGINE`` may be."""

    BASIC = "basic"
    ADVANCED = "advanced"


QUESTION = "What is {name}, and how is it built?"
THREE_HOPS = (
    "MATCH (a:GitAuthor)<-[:AUTHORED_BY]-(c:GitCommit)-[:TOUCHES]->(f:GitFile)"
    "<-[:CONTAINS_FILE]-(r:GitRepository) "
    "RETURN a.name AS author, count(DISTINCT c) AS commits, count(DISTINCT f) AS files, "
    "r.name AS repository ORDER BY commits DESC LIMIT 5"
)
FOLDER_HOPS = (
    "MATCH (a:Folder)-[:CONTAINS]->(b)-[:CONTAINS]->(c)-[:CONTAINS]->(d) "
    "RETURN a.name AS top, b.name AS inside, c.name AS deeper, d.name AS file LIMIT 5"
)


def demo(
    place: Annotated[
        str | None, typer.Argument(help="A repository (path or URL) or a folder.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve the one write by itself.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop everything at the end.")] = False,
    engine: Annotated[
        ContextEngineName | None, typer.Option(help="Context engine; else CONTEXT_ENGINE.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Run the main job: sync a real repository, ask with citations, act with an approval."""
    where = place or str(default_repository())
    local = None if "://" in where or where.startswith("git@") else Path(where).expanduser()
    if local is not None and not local.is_dir():
        raise BadRequestError(f"there is no folder {where!r}; name a repository, a folder or a URL")
    name = where.rstrip("/").rpartition("/")[2].removesuffix(".git")
    asked = question or QUESTION.format(name="agentcy-ray" if place is None else name)
    if engine is not None:
        export_environment({"CONTEXT_ENGINE": engine.value})
    settings = _with_free_port(Settings.load())
    if local is not None:
        allow_root(settings, local)
    running = read_running(settings.state_dir)
    started = running is None
    if running is None:
        running = start_detached(settings)
    try:
        facts = asyncio.run(_Demo(settings, running, quiet=json, yes=yes).run(where, asked))
        facts["url"], facts["warm_up_secs"] = running.url, running.warm_up_secs
        if json:
            print_json(facts)
        else:
            console().rule(style="dim")
            report(running, settings, as_json=False)
    finally:
        if once and started:
            stop_process(running.pid)
            asyncio.run(stop_embedded(settings))  # one that had to be killed left them


def default_repository() -> Path:
    """The project's own repository when the code runs from one, else the working folder."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / ".git").exists() or (root / "pyproject.toml").exists() else Path.cwd()


def _with_free_port(settings: Settings) -> Settings:
    """The demo never stops at a taken default port; ``agentcy up`` does."""
    if is_free(settings.agentcy_port) or read_running(settings.state_dir):
        return settings
    export_environment({"AGENTCY_PORT": "0"})
    return Settings.load()


class _Demo:
    """The steps, in order; each prints what a person wants to see and keeps what a program does."""

    def __init__(self, settings: Settings, running: Running, *, quiet: bool, yes: bool) -> None:
        self._settings = settings
        self._url = running.url
        self._quiet = quiet
        self._yes = yes

    async def run(self, where: str, question: str) -> dict[str, Any]:
        async with Client(self._settings, self._url) as client:
            facts: dict[str, Any] = {"engine": await self._engine(client)}
            facts["sync"] = await self._sync(client, where)
            facts["stats"] = await self._stats(client)
            facts["traversal"] = await self._traverse(client)
            facts["search"] = await self._search(client, question)
            answer = await self._ask(client, question)
            facts["answer"] = answer
            facts["action"] = await self._act(client, question, answer["text"])
            facts["audit"] = await self._audit(client)
            return facts

    async def _engine(self, client: Client) -> str:
        """The engine that answers; whoever names another one wants no demo of this."""
        found = str((await client.get("/context/capabilities"))["engine"])
        asked = self._settings.context_engine
        if (found, asked) == ("basic", "advanced"):  # what was on Basic moves by itself
            moving = await engine.newest(client)
            if moving is not None and moving["migration"]["status"] not in engine.ENDED:
                self._step("0 · move to the Advanced engine")
                await engine.watch(client, moving["migration"]["id"], quiet=self._quiet)
                found = str((await client.get("/context/capabilities"))["engine"])
        if found != asked:
            raise ConflictError(
                f"the {found} engine answers here, not the {asked} one; run `agentcy down` and the "
                "demo again, or give the demo a state folder of its own (AGENTCY_STATE_DIR)",
                engine=found,
            )
        return found

    def _step(self, title: str) -> None:
        if not self._quiet:
            console().print(f"\n[bold]{title}[/]")

    async def _sync(self, client: Client, where: str) -> dict[str, Any]:
        connector, config = _source_config(where)
        self._step(f"1 · sync {where} ({connector})")
        source = await _source(client, "demo", connector, config)
        began = time.monotonic()
        run = await self._sync_run(client, source["id"])
        secs = time.monotonic() - began
        if run["status"] != "synced":
            error = run.get("error") or {}
            raise BackendError(
                f"the sync failed: {error.get('message', run['status'])}", code="sync_failed"
            )
        counts = run["counts"]
        changed = sum(
            count
            for kind in ("nodes", "edges")
            for verb, count in counts.get(kind, {}).items()
            if verb != "unchanged"
        )
        stages, chunks = counts.get("seconds", {}), counts.get("embedded", 0)
        facts = {
            "seconds": round(secs, 2),
            "counts": counts,
            "rows_per_second": _rate(changed, stages.get("publish")),
            "chunks_embedded": chunks,
            "chunks_per_second": _rate(chunks, stages.get("embed")),
        }
        if not self._quiet:
            console().print(
                f"{changed:,} nodes and edges published at {facts['rows_per_second']:,.0f}/s, "
                f"{chunks:,} chunks embedded at {facts['chunks_per_second']:,.0f}/s, "
                f"{secs:.1f} s in all"
            )
        return facts

    async def _sync_run(self, client: Client, source_id: str) -> dict[str, Any]:
        """Start a sync, or follow the one that runs already."""
        try:
            started = await client.post(f"/sources/{source_id}/sync", {})
            run_id = started["sync_run_id"]
        except AgentcyError as error:
            if error.code != "sync_in_progress":
                raise
            run_id = error.details["sync_run_id"]
        return await watch(client, run_id, quiet=self._quiet)

    async def _stats(self, client: Client) -> dict[str, Any]:
        stats = await client.get("/context/stats")
        self._step("2 · the graph")
        if not self._quiet:
            for title in ("labels", "types"):
                rows = [{"name": k, "count": f"{n:,}"} for k, n in stats[title].items()]
                print_rows(rows, ["name", "count"], title=title)
        return stats

    async def _traverse(self, client: Client) -> dict[str, Any]:
        schema = await client.get("/context/schema")
        labels = {label["name"] for label in schema["labels"]}
        query = THREE_HOPS if "GitCommit" in labels else FOLDER_HOPS
        answer = await client.post(
            "/context/query", {"language": "cypher", "query": query, "limit": 5}
        )
        self._step(f"3 · three hops ({answer['took_ms']:.0f} ms)")
        if not self._quiet:
            console().print(query, style="dim", markup=False)
            names = [column["name"] for column in answer["columns"]]
            print_table(answer["rows"], names, brief=True)
        return {"took_ms": answer["took_ms"], "rows": answer["rows"]}

    async def _search(self, client: Client, question: str) -> dict[str, Any]:
        answer = await client.post("/rag/hybrid", {"query": question, "top_k": 5})
        self._step(f"4 · hybrid search ({answer['took_ms']:.0f} ms)")
        if not self._quiet:
            rows = [
                {"score": f"{h['score']:.3f}", "label": h["labels"][0], "name": h["name"],
                 "snippet": shorten(h["snippet"], 80, placeholder=" …")}
                for h in answer["hits"]
            ]  # fmt: skip
            print_rows(rows, ["score", "label", "name", "snippet"])
        return {"took_ms": answer["took_ms"], "hits": [hit["name"] for hit in answer["hits"]]}

    async def _ask(self, client: Client, question: str) -> dict[str, Any]:
        self._step(f"5 · ask: {question}")
        conversation = await start(client, "demo", None, None)
        events = await show(
            client, client.ask(conversation, {"content": question}), yes=self._yes,
            quiet=self._quiet,
        )  # fmt: skip
        text = "".join(e["data"]["delta"] for e in events if e["type"] == "content_delta")
        cited = [e["data"]["title"] for e in events if e["type"] == "citation"]
        return {"text": text, "citations": cited, "events": len(events)}

    async def _act(self, client: Client, question: str, answer: str) -> dict[str, Any]:
        """Save the answer as a note: a write, so somebody has to agree."""
        self._step("6 · act: save the answer as a note (a write, so it needs an approval)")
        folder = self._settings.state_dir / "demo-notes"
        folder.mkdir(exist_ok=True, mode=0o700)
        allow_root(self._settings, folder)
        config = {"root": str(folder), "writable": True, "include_globs": ["**/*.md"]}
        await _source(client, "demo-notes", "files", config)
        note = f"# {question}\n\n{answer.strip()}\n"
        args = {"path": "answer.md", "content": note}
        conversation = await start(client, "demo note", None, None)
        path = f"/chat/conversations/{conversation}/tool-calls"
        call = {"connector": "files", "tool": "write_file", "source": "demo-notes", "args": args}
        result = await client.post(path, call)
        if result["status"] == "pending_approval":
            await self._decide(client, result["approval_id"])
        result = await ended(client, path, result)
        if not self._quiet:
            console().print(f"{result['status']}: {folder / 'answer.md'}")
        return {"status": result["status"], "tool_call_id": result["tool_call_id"]}

    async def _decide(self, client: Client, approval_id: str) -> None:
        approval = await client.get(f"/approvals/{approval_id}")
        asked = {**approval, "approval_id": approval_id}
        await decide(client, asked, yes=self._yes, quiet=self._quiet)

    async def _audit(self, client: Client) -> list[dict[str, Any]]:
        page = await client.get("/policies/audit", limit=6)
        rows = [
            {"seq": row["seq"], "action": row["action"], "decision": row["decision"],
             "tool": (row.get("resource") or {}).get("tool")}
            for row in reversed(page["items"])
        ]  # fmt: skip
        self._step("7 · what the audit log holds of it")
        if not self._quiet:
            print_rows(rows, ["seq", "action", "decision", "tool"])
        return rows


def _rate(count: int, secs: float | None) -> float:
    return round(count / secs, 1) if secs else 0.0


async def _source(
    client: Client, name: str, connector: str, config: dict[str, Any]
) -> dict[str, Any]:
    """The demo's source, made or brought to this config."""
    for row in await client.items("/sources"):
        if row["name"] == name:
            if row["connector"] == connector:
                return await client.patch(f"/sources/{row['id']}", {"config": config})
            purge = await client.delete(f"/sources/{row['id']}", purge=True)
            await _job_ended(client, purge["job_id"])
    return await client.post("/sources", {"name": name, "connector": connector, "config": config})


async def _job_ended(client: Client, job_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        job: dict[str, Any] = await client.get(f"/jobs/{job_id}")
        return job if job["status"] in {"succeeded", "dead", "cancelled"} else None

    return await until(look)


def _source_config(where: str) -> tuple[str, dict[str, Any]]:
    if "://" in where or where.startswith("git@"):
        return "git", {"url": where}
    path = Path(where).expanduser().resolve()
    if (path / ".git").exists() or (path / "HEAD").exists():
        return "git", {"url": str(path)}
    return "files", {"root": str(path)}
