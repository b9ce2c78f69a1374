"""Entry point of the command line: `effsam` is `python -m effsam_export`."""

from __future__ import annotations

import sys

from effsam_export.util import signals


def main() -> None:
    """Run the command line; a signal ends it with one line, also while it is being imported."""
    try:
        with signals.raised():
            from effsam_export import cli

            cli.main()
    except signals.Stopped as stop:
        if sys.stderr is not None:
            sys.stderr.write(f"stopped by {stop.signal.name}\n")
        signals.leave(128 + stop.signal)


if __name__ == "__main__":
    main()
