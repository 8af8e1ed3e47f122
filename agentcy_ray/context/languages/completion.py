"""What an editor may offer while a query is typed: from the graph's schema and the language."""

from __future__ import annotations

from agentcy_ray.context.engine import GraphSchema, Language, Record
from agentcy_ray.context.languages.cypher.functions import function_names
from agentcy_ray.context.languages.frames import SCHEMA, kind_of
from agentcy_ray.context.languages.kql import aggregates, reading
from agentcy_ray.context.languages.kql.functions import SCALAR
from agentcy_ray.context.languages.sql.functions import FUNCTIONS as SQL_FUNCTIONS
from agentcy_ray.context.languages.sql.reading import KEYWORDS as SQL_KEYWORDS

_CYPHER_KEYWORDS = (
    "MATCH", "OPTIONAL MATCH", "WHERE", "WITH", "RETURN", "DISTINCT", "ORDER BY", "SKIP", "LIMIT",
    "UNWIND", "UNION", "UNION ALL", "CALL", "EXISTS", "COUNT", "COLLECT", "CASE", "WHEN", "THEN",
    "ELSE", "END", "AND", "OR", "XOR", "NOT", "IN", "IS NULL", "IS NOT NULL", "STARTS WITH",
    "ENDS WITH", "CONTAINS", "AS", "ASC", "DESC", "shortestPath",
)  # fmt: skip
_SQL_TYPES = {"string": "varchar", "datetime": "timestamp", "dynamic": "json", "real": "double"}


class CompletionColumn(Record):
    """A column of a table, with its type in the language's words."""

    name: str
    type: str


class CompletionTable(Record):
    """A table that a query may read."""

    name: str
    columns: tuple[CompletionColumn, ...]


class Completion(Record):
    """Everything that may be offered in one language; each list sorted, without doubles."""

    language: Language
    keywords: tuple[str, ...]
    functions: tuple[str, ...]
    tables: tuple[CompletionTable, ...]
    labels: tuple[str, ...]
    types: tuple[str, ...]
    properties: tuple[str, ...]


def completion(language: Language, schema: GraphSchema) -> Completion:
    """Completion data of a language over what a scope's graph holds."""
    properties = {name for each in (*schema.labels, *schema.types) for name in each.properties}
    return Completion(
        language=language,
        keywords=_keywords(language),
        functions=tuple(sorted(_functions(language))),
        tables=() if language == "cypher" else _tables(language),
        labels=tuple(sorted(each.name for each in schema.labels)),
        types=tuple(sorted(each.name for each in schema.types)),
        properties=tuple(sorted(properties)),
    )


def _keywords(language: Language) -> tuple[str, ...]:
    match language:
        case "cypher":
            return _CYPHER_KEYWORDS
        case "kql":
            return reading.keywords()
        case "sql":
            return SQL_KEYWORDS


def _functions(language: Language) -> set[str]:
    match language:
        case "cypher":
            return set(function_names())
        case "kql":
            return {*SCALAR, *aggregates.NAMES, "toscalar", "materialize"}
        case "sql":
            return set(SQL_FUNCTIONS)


def _tables(language: Language) -> tuple[CompletionTable, ...]:
    return tuple(
        CompletionTable(
            name=table,
            columns=tuple(
                CompletionColumn(name=name, type=_type(language, name)) for name in columns
            ),
        )
        for table, columns in SCHEMA.items()
    )


def _type(language: Language, name: str) -> str:
    kind = kind_of(name)
    if language == "sql":
        return "varchar[]" if name == "label_set" else _SQL_TYPES[kind]
    return kind
