"""Properties and labels of planned nodes, edges and maps.

A property has the name under which the Basic engine stores it (see ``basic/layout.py``): one that
is reserved is reached with a trailing underscore, one that begins with ``@`` with a leading one.
"""

from __future__ import annotations

from sqlglot import Expr

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.cypher import sql, tree, values
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import Value
from agentcy_ray.context.languages.facts import PROPERTY, path, tag, tagged

NODE_FIELDS = frozenset({
    "id", "realm", "name", "source_id", "connector", "external_id", "first_seen", "last_seen",
    "archived_at", "content_hash",
})  # fmt: skip
EDGE_FIELDS = frozenset({
    "id", "realm", "source_id", "first_seen", "last_seen", "archived_at", "content_hash",
})  # fmt: skip
NODE_TAKEN = NODE_FIELDS | {"org", "_labels", "_text", "_json"}
EDGE_TAKEN = EDGE_FIELDS | {"org", "_src", "_dst", "_json"}
HIDDEN = frozenset({"_text", "_json", ""})
URL_CHARS = 1_500
"""A longer ``url`` is called ``url_``, see ``basic/layout.py``."""


def property_of(subject: Value, key: str, scope: Scope) -> Value:
    """``subject.key``; null when there is none."""
    if subject.is_null:
        return values.null()
    if subject.entries is not None:
        return subject.entries.get(key, values.null())
    match subject.kind:
        case "node" | "edge":
            return _entity_property(subject, key, scope)
        case "any":
            return _any_property(subject, key, scope)
        case "map":
            return Value("any", values.entry_of(subject.sql, key))
        case _:
            return refuse(key, f"a {subject.kind} has no property {key}",
                          "read properties of nodes, relationships and maps")  # fmt: skip


def _entity_property(subject: Value, key: str, scope: Scope) -> Value:
    node = subject.kind == "node"
    fields = subject.fields
    assert fields is not None
    reserved = NODE_FIELDS if node else EDGE_FIELDS
    if key in reserved:
        return values.text(fields[key] if key == "id" else sql.function("nullif", fields[key], ""))
    if key == "org":
        there = sql.is_null(fields["id"], negated=True)
        return values.text(sql.case((there, sql.lit(scope.org_id.hex))))
    if not node and key in ("_src", "_dst"):
        return values.text(fields[key[1:]])
    if node and key == "_labels":
        return labels_of(subject, own_only=True)
    if key in HIDDEN:
        return values.null()
    base = key.rstrip("_")
    if base == "url":
        return _url(fields["facts"], key)
    taken = NODE_TAKEN if node else EDGE_TAKEN
    name = key[:-1] if key.endswith("_") and base in taken else key
    if name.lstrip("_").startswith("@"):
        if not name.startswith("_"):
            return values.null()
        name = name[1:]
    return Value("any", tagged(fields["facts"], path(name)), raw=True)


def _url(column: Expr, key: str) -> Value:
    """``url`` is a property of its own unless it is too long for an index, then ``url_`` is."""
    if key not in ("url", "url_"):
        return Value("any", tagged(column, path(key[:-1])), raw=True)
    found = tagged(column, path("url"))
    long = sql.all_of([
        sql.compare("=", tag(found), sql.lit("s")),
        sql.compare(">", sql.function("character_length", found), sql.number(URL_CHARS + 1)),
    ])
    nothing = sql.cast(sql.NULL, "text")
    first, second = (found, nothing) if key == "url_" else (nothing, found)
    return Value("any", sql.case((long, first), default=second), raw=True)


def _any_property(subject: Value, key: str, scope: Scope) -> Value:
    """A property of something whose type only the rows tell."""
    whole = subject.sql
    branches = [
        (values.has_tag(whole, "N"),
         values.to_any(_entity_property(values.of_tagged(whole, "node"), key, scope))),
        (values.has_tag(whole, "R"),
         values.to_any(_entity_property(values.of_tagged(whole, "edge"), key, scope))),
        (values.has_tag(whole, "d"), values.entry_of(whole, key)),
    ]  # fmt: skip
    return Value("any", sql.case(*branches))


def labels_of(node: Value, *, own_only: bool = False) -> Value:
    """The labels of a node as a list: its own, or sorted with ``Entity``, which every node has."""
    fields = node.fields
    assert fields is not None
    inner = sql.function("btrim", fields["label_set"], sql.lit(PROPERTY))
    own = sql.function("string_to_array", inner, sql.lit(PROPERTY))
    # One replace for all: the separator between two labels becomes the one of items, tagged.
    flat = sql.function("array_to_string", own, sql.lit("\x1ds"))
    tagged_ = sql.joined([sql.lit("s"), flat])
    if not own_only:
        tagged_ = sql.joined([sql.lit("sEntity\x1d"), tagged_])
    listed = sql.function("string_to_array", tagged_, sql.lit("\x1d"))
    if not own_only:
        listed = sql.function("array_sort", listed)
    there = sql.is_null(fields["id"], negated=True)
    return values.array_of(sql.case((there, listed)), "text")


def has_labels(value: Value, labels: tree.LabelExpression) -> Expr:
    """``n:A&!B`` of a node, ``r:T|U`` of an edge; null for null."""
    if value.kind == "any" and not value.is_null:
        node, edge = (values.of_tagged(value.sql, kind) for kind in ("node", "edge"))
        return sql.case((values.has_tag(value.sql, "N"), has_labels(node, labels)),
                        (values.has_tag(value.sql, "R"), has_labels(edge, labels)))  # fmt: skip
    if value.fields is None:
        return sql.cast(sql.NULL, "boolean")
    return label_test(labels, value.fields, node=value.kind == "node")


def label_test(
    labels: tree.LabelExpression, fields: values.Mapping[str, Expr], *, node: bool
) -> Expr:
    """A label expression over the columns of a node or an edge."""
    match labels:
        case tree.Label(name=name) if not node:
            return sql.compare("=", fields["type"], sql.lit(name))
        case tree.Label(name="Entity") | tree.AnyLabel():
            return sql.is_null(fields["id"], negated=True)
        case tree.Label(name=name):
            marked = sql.lit(f"{PROPERTY}{name}{PROPERTY}")
            at = sql.function("strpos", fields["label_set"], marked)
            return sql.compare(">", at, sql.number(0))
        case tree.NotLabel(operand=operand):
            return sql.negate(label_test(operand, fields, node=node))
        case tree.Labels(operator=operator, operands=operands):
            tests = [label_test(each, fields, node=node) for each in operands]
            return sql.all_of(tests) if operator == "&" else sql.any_of(tests)
        case _:
            return sql.FALSE
