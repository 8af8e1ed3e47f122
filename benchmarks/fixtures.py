"""Data that benchmarks and demonstrations run on, made from a seed: the same every time."""

from __future__ import annotations

import random
from pathlib import Path

import pygit2

_WORDS = (  # noqa: SIM905 - words, not a list
    "ingest package segment manifest cursor lease epoch fence publish diff archive engine graph "
    "realm node edge query vector index chunk token embed search hybrid policy rego approval audit "
    "chain hash session host connector tool call effect intent receipt stream event replay resume "
    "cluster replica actor worker queue job retry backoff schedule tenant role permission secret"
).split()
_FOLDERS = ("core", "stores", "api", "agent", "ingest", "docs", "tests", "deploy")
_SUFFIXES = (".py", ".py", ".py", ".md", ".toml", ".ts")
_PEOPLE = 24


def make_repository(path: Path, *, commits: int, files: int = 400, seed: int = 7) -> Path:
    """A bare git repository with a history of ``commits`` commits over ``files`` files.

    Every fiftieth commit merges a side branch and every five hundredth is tagged; a commit changes
    one to four files. About 5,000 commits a minute on two cores.
    """
    rng = random.Random(seed)
    repository = pygit2.init_repository(str(path), bare=True, initial_head="main")
    names = [
        f"{rng.choice(_FOLDERS)}/{rng.choice(_WORDS)}_{i}{rng.choice(_SUFFIXES)}"
        for i in range(files)
    ]
    folders: dict[str, dict[str, pygit2.Oid]] = {}
    trees: dict[str, pygit2.Oid] = {}
    head: pygit2.Oid | None = None
    for number in range(commits):
        for name in rng.sample(names, rng.randint(1, 4)):
            folder, _, leaf = name.partition("/")
            folders.setdefault(folder, {})[leaf] = repository.create_blob(_text(rng, name))
            trees[folder] = _write(repository, folders[folder], pygit2.enums.FileMode.BLOB)
        tree = _write(repository, trees, pygit2.enums.FileMode.TREE)
        parents = [head] if head is not None else []
        if head is not None and number % 50 == 49:
            parents.append(_commit(repository, rng, number, tree, [head], "side: "))
        head = _commit(repository, rng, number, tree, parents, "")
        if number % 500 == 499:
            repository.create_reference(f"refs/tags/v{number // 500}", head)
    assert head is not None
    repository.create_reference("refs/heads/main", head)
    return path


def paragraphs(count: int, *, words: int = 60, seed: int = 7) -> list[str]:
    """Distinct texts of about ``words`` words each, lengths spread by half."""
    rng = random.Random(seed)
    return [_sentence(rng, max(4, int(rng.gauss(words, words / 3)))) for _ in range(count)]


def _write(repository: pygit2.Repository, entries: dict[str, pygit2.Oid], mode: int) -> pygit2.Oid:
    builder = repository.TreeBuilder()
    for name, oid in entries.items():
        builder.insert(name, oid, mode)
    return builder.write()


def _commit(
    repository: pygit2.Repository,
    rng: random.Random,
    number: int,
    tree: pygit2.Oid,
    parents: list[pygit2.Oid],
    prefix: str,
) -> pygit2.Oid:
    person = rng.randrange(_PEOPLE)
    at = 1_600_000_000 + number * 3_600
    author = pygit2.Signature(f"Author {person}", f"author{person}@example.org", at, 0)
    title = f"{prefix}{_sentence(rng, rng.randint(4, 9))}"
    message = f"{title}\n\n{_sentence(rng, rng.randint(8, 40))}\n"
    return repository.create_commit(None, author, author, message, tree, parents)


def _text(rng: random.Random, name: str) -> bytes:
    lines = [f"# {name}", ""]
    lines += [_sentence(rng, rng.randint(6, 14)) for _ in range(rng.randint(5, 60))]
    return ("\n".join(lines) + "\n").encode()


def _sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words))
