"""How long the light commands take to start, against the import of their CLI library.

`python -m benchmarks.startup [--rounds N]`
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks.timing import figure, ratio, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BASE = "import typer"
ROUNDS = 11
EFFSAM = (sys.executable, "-m", "effsam_export")


def commands(bundle: str | None = None) -> dict[str, tuple[str, ...]]:
    """The commands by name, the base first; `effsam inspect` only where there is a bundle."""
    found = {
        BASE: (sys.executable, "-c", "import typer"),
        "effsam --help": (*EFFSAM, "--help"),
        "effsam list": (*EFFSAM, "list"),
        "effsam targets": (*EFFSAM, "targets"),
    }
    if bundle is not None:
        found["effsam inspect"] = (*EFFSAM, "inspect", bundle)
    return found


def measure(
    commands: Mapping[str, Sequence[str]],
    rounds: int,
    statistic: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[str, float]:
    """Wall time of each command in seconds; every round runs each of them once.

    The first round fills the file cache and the byte-code cache, and is not counted.

    Args:
        commands: Name -> program and arguments.
        rounds: How often each is run.
        statistic: Reduces the times of one command to one; `min` is the least noisy.

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, want at least 1")
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(list(command), check=True, capture_output=True)
            if number:
                taken[name].append(time.perf_counter() - start)
    return {name: statistic(seconds) for name, seconds in taken.items()}


def main(argv: list[str] | None = None) -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--bundle", help="also time `effsam inspect` of this bundle")
    args = parser.parse_args(argv)
    medians = measure(commands(args.bundle), args.rounds)
    print(f"median of {args.rounds} interleaved rounds; lower is better\n")
    rows = [
        [name, figure(1e3 * seconds, 0), figure(ratio(seconds, medians[BASE]))]
        for name, seconds in medians.items()
    ]
    print(table(["command", "ms", f"/ `{BASE}`"], rows))


if __name__ == "__main__":
    main()
