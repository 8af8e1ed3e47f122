"""Tables on a terminal and in a pipe: what gives way, and that no id does."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.cli.output import print_record, print_rows
from agentcy_ray.cli.tables import record, table
from agentcy_ray.core.ids import encode, new_id

SOURCE, RUN, USER = (encode(prefix, new_id()) for prefix in ("src", "run", "usr"))
SAID = "the repository refused the credentials that it was given, so nothing was read"


def plain(
    rows: list[list[str]], names: list[str], width: int | None, most: int | None = None
) -> list[str]:
    return [line.plain for line in table(rows, names, width, most=most)]


def test_what_does_not_fit_stands_under_its_row() -> None:
    rows = [[SOURCE, "code", RUN, "12"], [SOURCE, "a", "", "7"]]
    assert plain(rows, ["id", "name", "last run", "syncs"], 60) == [
        "id                              name  syncs",
        f"{SOURCE}  code     12",
        f"  last run  {RUN}",
        f"{SOURCE}  a         7",
    ]
    wide = plain(rows, ["id", "name", "last run", "syncs"], 200)
    assert wide[1] == f"{SOURCE}  code  {RUN}     12"


def test_text_wraps_at_words_before_it_moves() -> None:
    assert plain([[SOURCE, SAID]], ["id", "error"], 64) == [
        "id                              error",
        f"{SOURCE}  the repository refused the",
        f"{' ' * 30}  credentials that it was given,",
        f"{' ' * 30}  so nothing was read",
    ]
    assert plain([[SOURCE, SAID]], ["id", "error"], 50)[2:] == [
        "  error  the repository refused the credentials",
        "         that it was given, so nothing was read",
    ]


def test_a_long_text_under_its_row_ends_in_an_ellipsis_at_a_word() -> None:
    lines = plain([[SOURCE, f"{RUN} " * 30]], ["id", "calls"], 80, most=6)
    assert len(lines) == 8
    assert lines[-1].endswith(f"{RUN} …")
    assert max(map(len, lines)) <= 80
    shown = [line.plain for line in record([("calls", f"{RUN} " * 30)], 80)]
    assert " ".join(shown).count(RUN) == 30  # one object is shown whole


@given(
    st.lists(
        st.lists(st.lists(st.sampled_from([SOURCE, USER, "12", "read", "日本"]), max_size=3),
                 min_size=4, max_size=4),
        min_size=1, max_size=4,
    ),
    st.integers(min_value=42, max_value=160),
)  # fmt: skip
def test_every_word_is_there_unbroken_and_no_line_is_too_long(
    cells: list[list[list[str]]], width: int
) -> None:
    rows = [[" ".join(words) for words in row] for row in cells]
    lines = table(rows, ["a", "b", "c", "d"], width)
    assert max(line.cell_len for line in lines) <= width
    found = [word for line in lines for word in line.plain.split()]
    for word in (SOURCE, USER, "日本"):
        assert found.count(word) == sum(
            row.count(word) for row in map(str.split, map(" ".join, rows))
        )


def test_a_pipe_gets_each_row_whole_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    row = {"id": SOURCE, "error": SAID * 5, "by": USER, "at": "2026-11-23T13:42:53.123456Z"}
    print_rows([row], ["id", "error", "by", "at"])
    assert capsys.readouterr().out.splitlines()[1] == "  ".join(row.values())
    print_rows([], ["id"])
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_times_by_the_second_and_nothing_of_what_others_wrote_is_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    hostile = "[/red] \x1b]0;mine\x07 two\nlines"
    print_rows([{"name": hostile, "at": "2026-11-23T13:42:53.123456Z"}], ["name", "at"])
    print_record({"name": hostile, "realms": ["data", "crm"], "unset": None})
    assert terminal.getvalue().splitlines() == [
        f"{'name':24}  at",
        "[/red] ]0;mine two lines  2026-11-23T13:42:53Z",
        "name    [/red] ]0;mine two lines",
        "realms  data, crm",
    ]
