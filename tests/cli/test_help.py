"""Help pages: short options, groups, examples that parse, and lines that fit the terminal."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import __version__, cli
from effsam_export.cli.commands import COMMANDS, Lazy
from effsam_export.cli.help import EXAMPLES, GROUPS, SHOWN, filled

if TYPE_CHECKING:
    from collections.abc import Callable

    Help = Callable[..., str]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Help:
    """Return what a command prints in a terminal of some columns."""

    def run(*arguments: str, columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["effsam", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("command", [(), ("export",), ("cache",)])
def test_h_is_help(page: Help, command: tuple[str, ...]) -> None:
    assert page(*command, "-h") == page(*command, "--help")
    assert "-h, --help" in page(*command, "-h")


def test_a_bare_command_shows_the_help(
    page: Help, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As usage errors it goes to stderr, with their exit code: a script named no command."""
    wanted = page("--help")
    monkeypatch.setattr(sys, "argv", ["effsam"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", wanted)


def test_upper_case_v_is_the_version(page: Help) -> None:
    assert page("-V") == page("--version") == f"effsam {__version__}\n"


def test_every_command_is_in_one_group_and_has_an_example() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS) == sorted(EXAMPLES)
    assert all(SHOWN[task] in names for task, names in GROUPS.items())


def test_the_list_shows_every_group_with_an_example(page: Help) -> None:
    lines = page("--help").splitlines()
    starts = [lines.index(f"{task}:") for task in GROUPS]
    assert starts == sorted(starts)
    for task, start in zip(GROUPS, starts, strict=True):
        after = lines[start + 1 :]
        section = after[: after.index("")]
        assert [line.split()[0] for line in section if line[2] != " "] == [*GROUPS[task], "$"]
        assert section[-1] == f"  $ {EXAMPLES[SHOWN[task]]}"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    program, command, *arguments = shlex.split(EXAMPLES[name])
    assert (program, command) == ("effsam", name)
    # Typer raises for an option that does not exist and for an argument that is missing.
    assert Lazy()[name].make_context(name, arguments).params
    assert len(EXAMPLES[name]) <= 76


def words_of(command: Any) -> set[str]:  # noqa: ANN401 - Typer's own kind of command
    """The words of a command's help and of the help of its options."""
    texts = [command.help or "", *(p.help or "" for p in command.params)]
    return {word for text in texts for word in text.split()}


@pytest.mark.parametrize("columns", [80, 120, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_is_broken_and_no_line_too_long(page: Help, name: str, columns: int) -> None:
    text = page(name, "--help", columns=columns)
    longest = max(map(len, text.splitlines()))
    assert longest <= columns
    assert words_of(Lazy()[name]) <= set(text.split())
    assert text.splitlines()[-1] == f"  {EXAMPLES[name]}"


def test_help_takes_the_full_width(page: Help) -> None:
    widths = [max(map(len, page("export", "-h", columns=c).splitlines())) for c in (80, 120, 200)]
    assert widths == sorted(widths)
    assert widths[0] > 70
    assert widths[1] > 110
    assert widths[2] > 150


def test_text_is_filled_by_paragraph() -> None:
    assert filled("one two-three four\nfive\n\nsix", 9, " ") == (
        " one\n two-three\n four\n five\n\n six"
    )
