"""Server folders that sources may name.

``SOURCE_FILE_ROOTS`` lists them; unset on an embedded install, it is the working folder. Beside it,
whoever operates this machine's state folder may allow further ones (``agentcy demo PATH`` does) in
the file ``file-roots`` there, one path a line. Reading the file anew each time makes a grant work
without a restart.
"""

from __future__ import annotations

from pathlib import Path

from agentcy_ray.core.settings import Settings


def file_roots(settings: Settings) -> tuple[Path, ...]:
    """All allowed folders, resolved."""
    listed = [Path(root).expanduser() for root in settings.source_file_roots]
    if not listed and settings.database_url is None and Path.cwd() != Path("/"):
        listed = [Path.cwd()]
    try:
        granted = [Path(line) for line in _file(settings).read_text().splitlines() if line]
    except FileNotFoundError:
        granted = []
    return tuple(dict.fromkeys(root.resolve() for root in (*listed, *granted)))


def allow_root(settings: Settings, root: Path) -> None:
    """Let sources name ``root`` and what lies below it; needs write access to the state folder."""
    if root.resolve() in file_roots(settings):
        return
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _file(settings).open("a") as file:
        file.write(f"{root.resolve()}\n")


def _file(settings: Settings) -> Path:
    return settings.state_dir / "file-roots"
