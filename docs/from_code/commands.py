"""The command reference, from the Typer application."""

from __future__ import annotations

from typing import Any

from docs.from_code.text import cell, code, table
from effsam_export.cli.commands import COMMANDS, Lazy
from effsam_export.cli.help import EXAMPLES, GROUPS


def all_commands() -> str:
    """Return a section for each command.

    Raises:
        ValueError: A command is in no group, or a group names a command that does not exist.
    """
    grouped = [name for names in GROUPS.values() for name in names]
    if sorted(grouped) != sorted(COMMANDS):
        raise ValueError(f"grouped {sorted(grouped)}, the commands are {sorted(COMMANDS)}")
    commands = Lazy()
    parts = []
    for group, names in GROUPS.items():
        parts.append(f"## {group}\n")
        parts += [section(name, commands[name]) for name in names]
    return "\n".join(parts)


def section(name: str, command: Any) -> str:  # noqa: ANN401 - Typer's own kind of command
    """Return heading, usage, help and tables of one command."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = " ".join(a.metavar if a.required else f"[{a.metavar}]" for a in arguments)
    parts = [f"### {name}\n", f"```text\neffsam {name} [OPTIONS] {words}".rstrip() + "\n```\n"]
    parts.append(f"{cell_free(command.help)}\n")
    if arguments:
        parts.append(
            table(
                ("argument", "meaning"), [[code(a.metavar), cell(a.help or "")] for a in arguments]
            )
        )
    parts.append(table(("option", "meaning"), [option_row(o) for o in options]))
    parts.append(f"```sh\n{EXAMPLES[name]}\n```\n")
    return "\n".join(parts)


def option_row(option: Any) -> list[str]:  # noqa: ANN401 - Typer's own kind of option
    """Return names, value and meaning of an option."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or kind(option)}"
    notes = [option.help or ""]
    if option.required:
        notes.append("Required.")
    if not option.is_flag and option.default is not None and not callable(option.default):
        notes.append(f"[default: {option.default}]")
    if option.multiple:
        notes.append("May be repeated.")
    if option.envvar:
        notes.append(f"Environment: `{option.envvar}`.")
    return [code(f"{names}{value}"), cell(" ".join(notes))]


def kind(option: Any) -> str:  # noqa: ANN401 - Typer's own kind of option
    """Return a word for the value of an option without a metavar."""
    name = str(getattr(option.type, "name", "")).lower()
    if name == "path":
        return "PATH"
    return "NUMBER" if "int" in name or "float" in name else "NAME"


def cell_free(text: str) -> str:
    """Help text as Markdown: its paragraphs, each on one line."""
    paragraphs = text.replace("<", "&lt;").split("\n\n")
    return "\n\n".join(" ".join(p.split()) for p in paragraphs)
