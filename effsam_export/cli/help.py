"""Help pages: commands by task, an example for each, the terminal's full width, no broken word."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUPS: dict[str, tuple[str, ...]] = {
    # task -> its commands, in the order of --help
    "See what is there": ("list", "targets", "info", "doctor"),
    "Export": ("fetch", "lint", "export", "bisect"),
    "Export many": ("build", "worker", "cache"),
    "Use and check a bundle": ("run", "bench", "eval", "verify", "inspect", "diff"),
    "Pass a bundle on": ("pack", "unpack", "sign", "attest", "code", "merge-layout"),
}
EXAMPLES: dict[str, str] = {
    "list": "effsam list --json",
    "targets": "effsam targets",
    "info": "effsam info mobile-sam",
    "doctor": "effsam doctor",
    "fetch": "effsam fetch mobile-sam",
    "lint": "effsam lint mobile-sam --target iphone-ane",
    "export": "effsam export mobile-sam --target openvino --fp16",
    "bisect": "effsam bisect mobile-sam --target coreml --precision fp16",
    "build": "effsam build effsam.toml --jobs 2 --output dist",
    "worker": "effsam worker --scheduler tcp://10.0.0.5:8786",
    "cache": "effsam cache --remove-unused 30",
    "run": "effsam run mobile-sam-onnx-fp32 image.jpg --point 280,140 -o overlay.png",
    "bench": "effsam bench mobile-sam-onnx-fp32 mobile-sam-openvino-fp32 --html bench.html",
    "eval": "effsam eval mobile-sam-onnx-fp32 --reference mobile_sam.pt --html eval.html",
    "verify": "effsam verify mobile-sam-onnx-fp32 --level golden",
    "inspect": "effsam inspect mobile-sam-onnx-fp32",
    "diff": "effsam diff mobile-sam-onnx-fp32 mobile-sam-onnx-fp16",
    "pack": "effsam pack mobile-sam-onnx-fp32",
    "unpack": "effsam unpack mobile-sam-onnx-fp32.effsam.zip --output bundle",
    "sign": "effsam sign mobile-sam-onnx-fp32 --key private.pem",
    "attest": "effsam attest mobile-sam-coreml-fp16 result.json",
    "code": "effsam code mobile-sam-onnx-fp32 --language cpp",
    "merge-layout": "effsam merge-layout sam-fp32 sam-fp16 -o models/sam",
}
SHOWN = {
    # task -> the command whose example the list of commands shows
    "See what is there": "info",
    "Export": "export",
    "Export many": "build",
    "Use and check a bundle": "run",
    "Pass a bundle on": "code",
}
SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    # Typer's limit is 80 columns in any terminal.
    "max_content_width": 1_000_000,
}
"""Context settings of all commands."""
MIN_TEXT = 24
"""Columns for the meaning of an option in a very narrow terminal."""


def filled(text: str, width: int, indent: str = "") -> str:
    """Return text as paragraphs of lines with at most `width` characters; no word is broken."""
    return "\n\n".join(
        textwrap.fill(
            " ".join(paragraph.split()),
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for paragraph in re.split(r"\n\s*\n", text.strip())
    )


_TyperFormatter: Any = typer.Context.formatter_class


class Formatter(_TyperFormatter):  # type: ignore[misc]  # its module depends on Typer's version
    """Typer's help formatter, except that it breaks no word at its hyphens."""

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        self.write(f"{filled(text, self.width, ' ' * self.current_indent)}\n")

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write terms and their meanings, in two columns."""
        rows = list(rows)
        first = min(max(len(term) for term, _ in rows), col_max) + col_spacing
        width = max(self.width - self.current_indent - first, MIN_TEXT)
        for term, meaning in rows:
            lines = filled(meaning, width).split("\n")
            if len(term) > first - col_spacing:
                lines.insert(0, "")
            for left, line in zip([term, *[""] * (len(lines) - 1)], lines, strict=True):
                self.write(f"{'':{self.current_indent}}{left:<{first}}{line}".rstrip() + "\n")


class Context(typer.Context):
    """The context of a command, with our help formatter."""

    formatter_class = Formatter


class Command(TyperCommand):
    """A command whose help page ends with an example."""

    context_class = Context

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's own
        """Write the example of the command."""
        super().format_epilog(ctx, formatter)
        if example := EXAMPLES.get(self.name or ""):
            with formatter.section("Example"):
                # Not wrapped, so that it can be copied.
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
