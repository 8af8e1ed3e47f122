"""What a file is, by its name, and the text in it, by its bytes."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import PurePosixPath

import charset_normalizer

_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class FileType:
    """A kind of file.

    ``language`` is a programming or markup language; None when the name does not tell.
    ``prose`` files are written to be read (notes, pages, papers), not to be run.
    """

    language: str | None
    media_type: str
    prose: bool = False


PLAIN = FileType(None, "text/plain")


def _code(language: str, *suffixes: str, media: str | None = None) -> dict[str, FileType]:
    kind = FileType(language, f"text/x-{media or language.lower()}")
    return dict.fromkeys(suffixes, kind)


def _prose(language: str, media_type: str, *suffixes: str) -> dict[str, FileType]:
    return dict.fromkeys(suffixes, FileType(language, media_type, prose=True))


_BY_SUFFIX: dict[str, FileType] = {
    **_prose("Markdown", "text/markdown", ".md", ".markdown", ".mdx", ".mkd"),
    **_prose("reStructuredText", "text/x-rst", ".rst"),
    **_prose("AsciiDoc", "text/asciidoc", ".adoc", ".asciidoc"),
    **_prose("Org", "text/org", ".org"),
    **_prose("TeX", "text/x-tex", ".tex"),
    **_prose("HTML", "text/html", ".html", ".htm", ".xhtml"),
    **_prose("Text", "text/plain", ".txt", ".text"),
    **_prose("PDF", "application/pdf", ".pdf"),
    **_prose(
        "Word",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        ".docx",
    ),
    **_prose(
        "PowerPoint",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        ".pptx",
    ),
    **_prose(
        "Excel",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ".xlsx",
    ),
    **_code("Python", ".py", ".pyi", ".pyw"),
    **_code("JavaScript", ".js", ".mjs", ".cjs", ".jsx"),
    **_code("TypeScript", ".ts", ".mts", ".cts"),
    **_code("TypeScript", ".tsx", media="tsx"),
    **_code("Go", ".go"),
    **_code("Rust", ".rs"),
    **_code("Java", ".java"),
    **_code("Kotlin", ".kt", ".kts"),
    **_code("Scala", ".scala", ".sc"),
    **_code("Groovy", ".groovy", ".gradle"),
    **_code("C", ".c", ".h"),
    **_code("C++", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", media="c++"),
    **_code("C#", ".cs", media="csharp"),
    **_code("F#", ".fs", ".fsx", media="fsharp"),
    **_code("Objective-C", ".m", ".mm"),
    **_code("Swift", ".swift"),
    **_code("Dart", ".dart"),
    **_code("Ruby", ".rb", ".rake", ".gemspec"),
    **_code("PHP", ".php"),
    **_code("Perl", ".pl", ".pm"),
    **_code("Lua", ".lua"),
    **_code("R", ".r"),
    **_code("Julia", ".jl"),
    **_code("Haskell", ".hs"),
    **_code("OCaml", ".ml", ".mli"),
    **_code("Elixir", ".ex", ".exs"),
    **_code("Erlang", ".erl", ".hrl"),
    **_code("Clojure", ".clj", ".cljs", ".cljc", ".edn"),
    **_code("Zig", ".zig"),
    **_code("Nix", ".nix"),
    **_code("Shell", ".sh", ".bash", ".zsh", ".fish"),
    **_code("PowerShell", ".ps1", ".psm1"),
    **_code("SQL", ".sql"),
    **_code("Cypher", ".cypher", ".cql"),
    **_code("Rego", ".rego"),
    **_code("GraphQL", ".graphql", ".gql"),
    **_code("Protocol Buffers", ".proto", media="protobuf"),
    **_code("Terraform", ".tf", ".tfvars", ".hcl", media="hcl"),
    **_code("CSS", ".css", ".scss", ".sass", ".less"),
    **_code("Vue", ".vue"),
    **_code("Svelte", ".svelte"),
    **_code("XML", ".xml", ".xsd", ".xsl", ".svg"),
    **_code("JSON", ".json", ".jsonc", ".ndjson", ".jsonl"),
    **_code("YAML", ".yaml", ".yml"),
    **_code("TOML", ".toml"),
    **_code("INI", ".ini", ".cfg", ".conf", ".properties"),
    **_code("Jupyter", ".ipynb"),
}
_BY_NAME: dict[str, FileType] = {
    **_code("Dockerfile", "dockerfile", "containerfile"),
    **_code("Makefile", "makefile", "gnumakefile"),
    **_code("CMake", "cmakelists.txt"),
    **_code("Ruby", "rakefile", "gemfile"),
    **_prose("Text", "text/plain", "readme", "license", "copying", "notice", "changelog"),
}


def file_type(path: str) -> FileType:
    """The type that a file's name promises; plain text of no language when it promises none."""
    name = PurePosixPath(path).name.lower()
    return _BY_NAME.get(name) or _BY_SUFFIX.get(PurePosixPath(name).suffix) or PLAIN


def decode_text(data: bytes) -> str | None:
    """The text that ``data`` holds, or None when it is binary or blank.

    UTF-8 first, UTF-16 when it says so by a byte-order mark, else the encoding that
    charset-normalizer finds most likely. A NUL byte means binary, as it does to git.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    elif b"\x00" in data:
        return None
    else:
        text = _decoded(data)
    return text if text is not None and text.strip() else None


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(data[:_SAMPLE_BYTES]).best()
        return None if best is None else data.decode(best.encoding, "replace")
