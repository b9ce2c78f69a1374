"""The table of commands. The module of a command is imported when the command is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from effsam_export.cli.help import EXAMPLES, GROUPS, SETTINGS, SHOWN, Command, Context
from effsam_export.cli.values import check_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = "effsam_export.cli"
COMMANDS = {
    # name -> (module, function); `cli/help.py` has the order and an example of each
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
    "bench": ("bench", "bench"),
    "eval": ("eval", "evaluate"),
    "verify": ("verify", "verify"),
    "inspect": ("bundles", "inspect"),
    "diff": ("bundles", "diff"),
    "pack": ("bundles", "pack"),
    "unpack": ("bundles", "unpack"),
    "sign": ("bundles", "sign"),
    "attest": ("bundles", "attest"),
    "merge-layout": ("merge_layout", "merge_layout"),
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
            app.command(name, cls=Command, context_settings=SETTINGS)(function_of(name))
            self._commands[name] = check_values(typer.main.get_command(app))
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(TyperGroup):
    """The command group of `effsam`, with lazy commands."""

    context_class = Context

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Typer's own
        super().__init__(*arguments, **options)
        self.commands = Lazy()  # type: ignore[assignment]  # only read

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer's own
        """Return the names, by task."""
        del ctx
        return [name for names in GROUPS.values() for name in names]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's own
        """Write the commands by task, without their options, which take long to create."""
        del ctx
        width = max(map(len, COMMANDS))
        for task, names in GROUPS.items():
            with formatter.section(task):
                formatter.write_dl([(f"{name:<{width}}", summary(name)) for name in names])
                formatter.write(f"{'':{formatter.current_indent}}$ {EXAMPLES[SHOWN[task]]}\n")


def summary(name: str) -> str:
    """Return the first sentence of a command's help, without its full stop."""
    text = " ".join((function_of(name).__doc__ or "").split())
    return text.partition(". ")[0].removesuffix(".")
