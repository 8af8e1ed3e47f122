from pathlib import Path

from agentcy_ray.connectors.git import GitConnector
from agentcy_ray.core.tools import Effect
from tests.conformance.connector_suite import ConnectorCase, Prepared
from tests.connectors.git.repos import Repo


def prepare(folder: Path) -> Prepared:
    repo = Repo(folder / "repo", bare=False)
    first = repo.commit({"README.md": b"# Hello\n", "src/app.py": b"print('hello')\n"})
    repo.commit({"src/app.py": b"print('hi')\n", "logo.png": b"\x89PNG\x00\x00"}, author="Grace")
    repo.point("topic", first)
    side = repo.commit({"notes.txt": b"to do\n"}, branch="topic")
    tip = repo.commit({}, parents=[repo.tip(), side], message="Merge topic\n")
    repo.tag("v1", tip, "First release\n")
    reads = [
        ("log", {"path": "src", "limit": 5}),
        ("show", {"ref": "v1"}),
        ("file", {"path": "README.md"}),
        ("grep", {"pattern": "h[ei]"}),
        ("diff", {"from": first, "to": "main"}),
    ]
    return Prepared({"url": str(folder / "repo")}, file_roots=(folder,), reads=reads)


READ, WRITE = Effect.READ, Effect.WRITE
CASES = [
    ConnectorCase(
        "git",
        GitConnector,
        prepare,
        effects={
            **dict.fromkeys(("log", "show", "file", "grep", "diff"), READ),
            **dict.fromkeys(("branch", "commit", "push"), WRITE),
        },
    )
]
