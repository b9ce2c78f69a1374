"""All terminal output: stage lines, progress bars, tables and errors.

Messages go to stderr, data to stdout. Progress bars appear only if stderr is a terminal.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from effsam_export.cli import details, tables
from effsam_export.cli.streams import can_show, printable, write_data, write_message
from effsam_export.errors import UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from effsam_export.errors import EffsamError
    from effsam_export.parity.cases import Decision
    from effsam_export.parity.results import ParityReport
    from effsam_export.util.progress import StageEvent

SCHEMA_VERSION = 2
"""Version of all `--json` documents."""


class Console:
    """Messages and progress of one command, on stderr.

    Args:
        quiet: Print errors only.
        verbose: Print the details that the library logs, too.

    Raises:
        UsageError: Both are asked for.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        if quiet and verbose:
            raise UsageError("--quiet and --verbose contradict each other", hint="leave one out")
        details.show(self.detail if verbose else None)
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._start = time.perf_counter()

    def message(self, *lines: str) -> None:
        """Print the lines of a message. A line break within one becomes an escape sequence."""
        if not self._quiet:
            write_message("\n".join(map(one_line, lines)))

    def detail(self, line: str) -> None:
        """Print a line of `--verbose`, above the progress bar."""
        self._close_bar()
        write_message(f"  | {one_line(line)}")

    def on_event(self, event: StageEvent) -> None:
        """Show a stage: a progress bar while it runs, one line when it ends."""
        if self._quiet:
            return
        if event.kind == "note":
            self._close_bar()
            write_message(f"note: {event.detail}")
        elif event.kind in ("started", "advanced"):
            self._advance(event.stage, event.done, event.total)
        elif event.kind in ("finished", "failed"):
            self._close_bar()
            mark = _mark(passed=event.kind == "finished")
            line = f"{mark} {event.stage:<16} {event.seconds:7.1f} s  {event.detail}"
            write_message(one_line(line.rstrip()))

    def on_transfer(self, label: str, done: int, total: int | None) -> None:
        """Show the progress of a download, in bytes."""
        if not self._quiet:
            self._advance(label, done, total, transfer=True)

    def result(self, *, passed: bool, what: str, word: str = "") -> None:
        """Print the final line, which CI logs can be searched for.

        It begins with `PASSED` or `FAILED`, or with another word in capitals.
        """
        self._close_bar()
        word = word.upper() or ("PASSED" if passed else "FAILED")
        self.message(f"{word}  {what}  {time.perf_counter() - self._start:.1f} s")

    def next(self, command: str) -> None:
        """Print a command to run next."""
        self.message(f"next: {command}")

    def close(self) -> None:
        """Remove the progress bar."""
        self._close_bar()

    def _advance(self, label: str, done: int, total: int | None, *, transfer: bool = False) -> None:
        if not sys.stderr.isatty():
            return
        from rich import progress
        from rich.console import Console as RichConsole

        if self._bar is None:
            amount = (
                (progress.DownloadColumn(), progress.TransferSpeedColumn())
                if transfer
                else (progress.TextColumn("{task.fields[count]}"), progress.TimeElapsedColumn())
            )
            self._bar = progress.Progress(
                progress.SpinnerColumn("dots" if can_show("⠋", sys.stderr) else "line"),
                progress.TextColumn("{task.description:<16}"),
                progress.BarColumn(),
                *amount,
                console=RichConsole(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, count="")
        count = f"{done}/{total}" if total else ""
        self._bar.update(self._task, description=label, completed=done, total=total, count=count)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Board:
    """Progress of a build: a live table if stderr is a terminal, otherwise one line per cell.

    Args:
        names: Names of all cells.
        quiet: Print nothing.
        live: Whether there may be a live table; other lines would disturb it.
    """

    def __init__(self, names: Sequence[str], *, quiet: bool = False, live: bool = True) -> None:
        self._quiet = quiet
        self._may_live = live
        self._width = max(map(len, names), default=0)
        self._began: dict[str, float] = {}
        self._done, self._total = 0, len(names)
        self._live: Any = None

    def __enter__(self) -> Board:
        if self._may_live and not self._quiet and sys.stderr.isatty():
            from rich.console import Console as RichConsole
            from rich.live import Live

            self._live = Live(
                get_renderable=self._running,
                console=RichConsole(stderr=True),
                transient=True,
                refresh_per_second=2,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, name: str) -> None:
        """Show a cell as running."""
        self._began[name] = time.perf_counter()

    def done(self, name: str, *, passed: bool, seconds: float, detail: str) -> None:
        """Print the result of a cell."""
        self._began.pop(name, None)
        self._done += 1
        if self._quiet:
            return
        mark = _mark(passed=passed)
        line = one_line(f"{mark} {name:<{self._width}} {seconds:7.1f} s  {detail}")
        if self._live is None:
            write_message(line)
        else:
            # Printed above the live table.
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _running(self) -> Any:  # noqa: ANN401 - a rich renderable
        from rich.table import Table

        board = Table.grid(padding=(0, 2))
        for name, began in list(self._began.items()):
            board.add_row(
                "…" if can_show("…", sys.stderr) else "",
                name,
                f"{time.perf_counter() - began:.0f} s",
            )
        board.add_row("", f"{self._done} of {self._total} done", "")
        return board


def data(text: str) -> None:
    """Print data on stdout.

    Raises:
        OutputError: Standard output cannot be written.
    """
    write_data(printable(text))


def document(content: dict[str, Any], *, versioned: bool = True) -> None:
    """Print a JSON document on stdout.

    Args:
        content: The document.
        versioned: Add `schema_version`. A document in the format of others has none.

    Raises:
        OutputError: Standard output cannot be written.
    """
    import json

    whole = {"schema_version": SCHEMA_VERSION, **content} if versioned else content
    text = json.dumps(whole, indent=2, ensure_ascii=False)
    if printable(text) != text or not can_show(text, sys.stdout):
        text = json.dumps(whole, indent=2)
    write_data(text)


def error(problem: EffsamError) -> None:
    """Print an error and its hint on stderr."""
    hint = f"\n\nhint: {problem.hint}" if problem.hint else ""
    write_message(f"error: {problem.message}{hint}")


def _mark(*, passed: bool) -> str:
    """Return a check mark or a cross, or letters where the terminal has neither."""
    if can_show("✓✗", sys.stderr):
        return "✓" if passed else "✗"
    return "ok" if passed else "x "


def stopped(signal: str) -> None:
    """Print that a signal ended the command, on stderr."""
    write_message(f"stopped by {signal}")


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO | None = None
) -> str:
    """Return rows of text with aligned columns, in the width of the terminal that shows them.

    Args:
        header: Name of each column.
        rows: Cells.
        stream: Where the table will be written, by default standard output.
    """
    return tables.table(header, rows, tables.width_of(stream or sys.stdout))


def state(report: ParityReport) -> str:
    """Return `verified`, or `simulated by` and the name of the simulator."""
    return f"{report.state} by {report.simulator}" if report.simulator else report.state


def parity_table(report: ParityReport, stream: TextIO | None = None) -> str:
    """Return two tables: end-to-end results by prompt, and the worst values of each tensor.

    Args:
        report: The measurements.
        stream: Where the tables will be written, by default standard output.
    """
    parts = []
    if report.cases:
        beside = not report.all_masks_decide
        header = ["end to end", "mask IoU", "of mask", "boundary IoU", "score error", "best mask"]
        header += ["do not decide"] if beside else []
        rows = [_case_row(d, beside=beside) for d in report.decisions]
        parts += [table(header, rows, stream), report.decided_by]
    rows = []
    for key in dict.fromkeys((s.component, s.point) for s in report.comparisons):
        results = [s for s in report.comparisons if (s.component, s.point) == key]
        for name in dict.fromkeys(t.name for s in results for t in s.tensors):
            tensors = [t for s in results for t in s.tensors if t.name == name]
            rows.append(
                [
                    f"{key[0]}, {'PyTorch to ONNX' if key[1] == 'onnx' else 'ONNX to artefact'}",
                    name,
                    f"{max(t.max_abs for t in tensors):.1e}",
                    f"{min(t.cosine for t in tensors):.7f}",
                    f"{min(t.sqnr_db for t in tensors):.0f} dB",
                ]
            )
    header = ["comparison", "tensor", "max-abs", "cosine", "SQNR"]
    parts.append(table(header, rows, stream))
    return "\n\n".join(parts)


def _case_row(decision: Decision, *, beside: bool) -> list[str]:
    """Return one row of end-to-end results; `beside`: with the IoU of masks that do not decide."""
    case, worst = decision.case, decision.worst
    figures = ["-"] * 4
    if worst is not None:
        boundary = f"{min(case.boundary_iou[i] for i in decision.masks):.4f}"
        error = f"{decision.score_error:.1e}"
        figures = [f"{case.mask_iou[worst]:.4f}", str(worst), boundary, error]
    ranking = "same"
    if decision.ranking != "same":
        ranking = "tie, " if decision.ranking == "tie" else ""
        ranking += f"{case.best} -> {case.artifact_best}: {case.best_iou:.4f}"
        ranking += f", gap {case.score_gap:.1e}"
    row = [case.case, *figures, ranking]
    if beside:
        row.append(", ".join(f"{i}: {case.mask_iou[i]:.4f}" for i in decision.beside) or "-")
    return row
