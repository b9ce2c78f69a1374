"""The light commands start in a blink: at most twice what importing Typer takes."""

from __future__ import annotations

import sys

from benchmarks.startup import measure

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
