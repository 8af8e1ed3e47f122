"""The parts of sqlglot's tree that are planned, and what is read of each; all else is refused."""

from __future__ import annotations

from sqlglot import exp

_TWO = frozenset({"this", "expression"})
_NEGATED = _TWO | {"negate"}
_ONE = frozenset({"this"})
_SET = frozenset({"this", "expression", "distinct", "with_", "order", "limit", "offset"})

PARTS: dict[type[exp.Expr], frozenset[str]] = {
    # queries
    exp.Select: frozenset({
        "with_", "expressions", "from_", "joins", "where", "group", "having", "order", "limit",
        "offset", "distinct",
    }),
    exp.Union: _SET, exp.Intersect: _SET, exp.Except: _SET,
    exp.Subquery: frozenset({"this", "alias", "with_", "order", "limit", "offset"}),
    exp.With: frozenset({"expressions", "recursive"}), exp.CTE: frozenset({"this", "alias"}),
    exp.From: _ONE, exp.Where: _ONE, exp.Having: _ONE,
    exp.Join: frozenset({"this", "side", "kind", "on", "using", "method"}),
    exp.Group: frozenset({
        "expressions", "rollup", "cube", "grouping_sets", "totals", "all",  # refused later
    }),
    exp.Order: frozenset({"this", "expressions"}),
    exp.Ordered: frozenset({"this", "desc", "nulls_first"}),
    exp.Limit: _TWO, exp.Offset: _TWO, exp.Distinct: frozenset({"expressions", "on"}),
    exp.Table: frozenset({"this", "alias", "joins", "db", "catalog"}),
    exp.TableAlias: frozenset({"this", "columns"}),
    exp.Unnest: frozenset({"expressions", "alias", "offset"}),
    exp.Values: frozenset({"expressions", "alias"}), exp.Tuple: frozenset({"expressions"}),
    # leaves
    exp.Alias: frozenset({"this", "alias"}), exp.Column: frozenset({"this", "table", "db"}),
    exp.Identifier: frozenset({"this", "quoted"}),
    exp.Star: frozenset({"except_", "except", "replace", "rename"}),  # refused later
    exp.Literal: frozenset({"this", "is_string"}), exp.Boolean: _ONE, exp.Null: frozenset(),
    exp.Var: _ONE, exp.Placeholder: _ONE, exp.Parameter: _ONE,
    # operators
    exp.Paren: _ONE, exp.Not: _ONE, exp.Neg: _ONE, exp.And: _TWO, exp.Or: _TWO,
    exp.EQ: _TWO, exp.NEQ: _TWO, exp.GT: _TWO, exp.GTE: _TWO, exp.LT: _TWO, exp.LTE: _TWO,
    exp.NullSafeEQ: _TWO, exp.NullSafeNEQ: _TWO, exp.Is: _NEGATED, exp.Like: _NEGATED,
    exp.ILike: _NEGATED, exp.RegexpLike: _NEGATED, exp.RegexpILike: _NEGATED,
    exp.In: frozenset({"this", "expressions", "query", "field", "unnest"}),
    exp.Between: frozenset({"this", "low", "high"}),
    exp.Add: _TWO, exp.Sub: _TWO, exp.Mul: _TWO, exp.Mod: _TWO,
    exp.Div: _TWO | {"typed", "safe"}, exp.DPipe: _TWO | {"safe"},
    exp.Concat: frozenset({"expressions", "safe", "coalesce"}),
    # forms
    exp.Case: frozenset({"this", "ifs", "default"}), exp.If: frozenset({"this", "true"}),
    exp.Cast: frozenset({"this", "to"}), exp.TryCast: frozenset({"this", "to", "safe"}),
    exp.DataType: frozenset({"this", "expressions", "nested"}), exp.DataTypeParam: _ONE,
    exp.Extract: _TWO, exp.Substring: frozenset({"this", "start", "length"}),
    exp.Trim: frozenset({"this", "expression", "position"}),
    exp.StrPosition: frozenset({"this", "substr"}), exp.Interval: frozenset({"this", "unit"}),
    exp.JSONExtract: _TWO | {"only_json_types"}, exp.JSONExtractScalar: _TWO | {"only_json_types"},
    exp.JSONPath: frozenset({"expressions"}), exp.JSONPathRoot: frozenset(),
    exp.JSONPathKey: _ONE, exp.JSONPathSubscript: _ONE,
    exp.Bracket: frozenset({"this", "expressions", "offset"}),
    exp.Array: frozenset({"expressions", "bracket_notation"}),
    # calls
    exp.Anonymous: frozenset({"this", "expressions"}), exp.Filter: _TWO, exp.WithinGroup: _TWO,
    exp.Window: frozenset({"this", "partition_by", "order", "spec", "over"}),
    exp.WindowSpec: frozenset({"kind", "start", "start_side", "end", "end_side"}),
    exp.Exists: _ONE,
}  # fmt: skip
