"""What every command has in common: --json, help, one line for a mistake, and exit codes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from pytest_httpserver import HTTPServer

from agentcy_ray.cli import main as cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def agentcy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run ``agentcy`` here on a fresh state folder; its exit code and what it printed."""
    monkeypatch.setenv("AGENTCY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("AGENTCY_URL", "http://127.0.0.1:1")  # nobody listens there

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["agentcy", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return run


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command below this one, with its words."""
    for name, below in getattr(command, "commands", {}).items():
        yield " ".join((*path, name)), below
        yield from commands(below, (*path, name))


@pytest.mark.requirement("CLI-01")
def test_every_command_takes_json_and_says_what_it_and_each_option_is_for() -> None:
    found = dict(commands(typer.main.get_command(cli.build())))
    assert len(found) > 80
    for words, command in found.items():
        assert command.help, words
        if hasattr(command, "commands"):
            continue
        assert "json" in {option.name for option in command.params}, words
        for option in command.params:
            assert option.name == "help" or option.help, (words, option.name)


def test_the_help_of_a_group_names_its_commands() -> None:
    for words, group in commands(typer.main.get_command(cli.build())):
        listed = group.help.partition(":")[2].rstrip(".").strip()
        if hasattr(group, "commands") and listed:
            assert set(listed.split(", ")) == set(group.commands), words


@pytest.mark.requirement("CLI-01")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sources", "ad"], "see `agentcy sources --help`"),
        (["sources", "add", "code"], "see `agentcy sources add --help`"),
        (["graph", "neighbors", "x", "--depth"], "see `agentcy graph neighbors --help`"),
        (["audit", "list", "--since", "soon"], "'soon' is no time; say 2h, 7d"),
        (["policy", "test", "absent.rego"], "cannot read absent.rego: No such file or directory"),
        (["tools", "call", "git.log", "{"], "the arguments are not JSON"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_way_out(
    agentcy: Run, words: list[str], said: str
) -> None:
    code, out, complaint = agentcy(*words)
    assert (code, out, complaint.count("\n")) == (2, "", 1), complaint
    assert said in complaint
    code, out, _ = agentcy(*words, "--json")
    assert code == 2
    assert said in orjson.loads(out)["error"]["message"]


def test_a_group_without_a_command_shows_its_help(agentcy: Run) -> None:
    code, out, complaint = agentcy("sources")
    assert code == 2
    assert "sync" in out + complaint
    assert "usage:" not in out + complaint


@pytest.mark.parametrize("words", [["sources", "list"], ["token"]])
def test_a_platform_that_is_away_is_said_to_be_before_any_login(
    agentcy: Run, words: list[str]
) -> None:
    code, out, complaint = agentcy(*words)
    assert (code, out, complaint.count("\n")) == (4, "", 1)
    assert "start the platform with `agentcy up`, or set AGENTCY_URL" in complaint
    code, out, complaint = agentcy(*words, "--json")
    assert (code, complaint) == (4, "")
    assert orjson.loads(out)["error"]["code"] == "not_reachable"


def test_an_address_of_something_else_is_told_from_a_platform(
    agentcy: Run, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/api/v1/sources").respond_with_data("<html>welcome</html>")
    httpserver.expect_request("/api/v1/users").respond_with_data("<html>no</html>", status=404)
    monkeypatch.setenv("AGENTCY_API_KEY", "agk_x")
    monkeypatch.setenv("AGENTCY_URL", httpserver.url_for(""))
    for words in (["sources", "list"], ["users", "list"]):
        code, _, complaint = agentcy(*words)
        assert (code, complaint.count("\n")) == (1, 1)
        assert "look at AGENTCY_URL" in complaint
    monkeypatch.setenv("AGENTCY_URL", "localhost:8080")
    code, _, complaint = agentcy("sources", "list")
    assert code == 2
    assert "write it as http://127.0.0.1:8080" in complaint


def test_what_is_asked_for_without_a_terminal_is_read_or_named(
    agentcy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, out, complaint = agentcy("login", "--email", "jo@example.com")
    assert (code, out) == (2, "")
    assert "give --password" in complaint
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    assert agentcy("login", "--email", "jo@example.com")[0] == 4  # it was read, and sent


def test_ctrl_c_is_told_with_the_code_of_a_shell(
    agentcy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agentcy_ray.cli.login.call", stopped)
    assert agentcy("whoami")[0] == 130
    code, out, _ = agentcy("whoami", "--json")
    assert (code, orjson.loads(out)["error"]["code"]) == (130, "cancelled")
