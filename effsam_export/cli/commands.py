"""The table of commands. The module of a command is imported when the command is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from effsam_export.cli.values import check_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = "effsam_export.cli"
COMMANDS = {
    # name -> (module, function), in the order of --help
    "list": ("catalogue", "list_models"),
    "targets": ("catalogue", "list_targets"),
    "info": ("info", "info"),
    "doctor": ("catalogue", "doctor"),
    "fetch": ("fetch", "fetch"),
    "lint": ("lint", "lint"),
    "export": ("export", "export"),
    "build": ("build", "build"),
    "worker": ("build", "serve"),
    "cache": ("cache", "cache"),
    "bisect": ("bisect", "bisect"),
    "run": ("run", "run"),
    "verify": ("verify", "verify"),
    "inspect": ("bundles", "inspect"),
    "diff": ("bundles", "diff"),
    "pack": ("bundles", "pack"),
    "unpack": ("bundles", "unpack"),
    "sign": ("bundles", "sign"),
    "attest": ("bundles", "attest"),
    "code": ("code", "code"),
}


def function_of(name: str) -> Callable[..., Any]:
    """Return the function of a command."""
    module, function = COMMANDS[name]
    found: Callable[..., Any] = getattr(import_module(f"{PACKAGE}.{module}"), function)
    return found


class Lazy(Mapping[str, Any]):
    """Commands by name, created from their functions on first access."""

    def __init__(self) -> None:
        self._commands: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - Typer's own kind of command
        if name not in self._commands:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name)(function_of(name))
            self._commands[name] = check_values(typer.main.get_command(app))
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(TyperGroup):
    """The command group of `effsam`, with lazy commands."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Typer's own
        super().__init__(*arguments, **options)
        self.commands = Lazy()  # type: ignore[assignment]  # only read

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer's own
        """Return the names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's own
        """Write the list of commands without their options, which take long to create."""
        del ctx
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        rows = [
            (name, TyperCommand(name, help=function_of(name).__doc__).get_short_help_str(limit))
            for name in COMMANDS
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
