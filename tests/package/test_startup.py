"""Start-up time of light commands, relative to the import of Typer.

Commands that read no bundle take at most twice as long, `inspect` at most five times.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.startup import measure

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 15


def test_light_commands_take_at_most_twice_the_import_of_typer() -> None:
    effsam = [sys.executable, "-m", "effsam_export"]
    seconds = measure(
        {
            "typer": [sys.executable, "-c", "import typer"],
            "--help": [*effsam, "--help"],
            "list": [*effsam, "list"],
            "targets": [*effsam, "targets"],
        },
        rounds=ROUNDS,
        # What else the machine does only adds time: the least is what the command itself takes.
        statistic=min,
    )
    for command in ("--help", "list", "targets"):
        ratio = seconds[command] / seconds["typer"]
        print(f"effsam {command}: {ratio:.2f} of `import typer`")
        assert ratio <= 2.0, f"effsam {command} takes {ratio:.2f} times as long"


@pytest.mark.backend
def test_inspect_takes_at_most_five_times_the_import_of_typer(exported_tiny: Path) -> None:
    seconds = measure(
        {
            "typer": [sys.executable, "-c", "import typer"],
            "inspect": [sys.executable, "-m", "effsam_export", "inspect", str(exported_tiny)],
        },
        rounds=ROUNDS,
        statistic=min,
    )
    ratio = seconds["inspect"] / seconds["typer"]
    print(f"effsam inspect: {ratio:.2f} of `import typer`")
    assert ratio <= 5.0, f"effsam inspect takes {ratio:.2f} times as long"
