"""`effsam build`: many exports from one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.fetch import acquire, consent
from effsam_export.cli.options import AcceptLicense, CacheDir, Json, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.matrix.run import Event, Planned

LARGE = 1000.0
"""MB in a GB, as `--memory` counts."""


def build(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Models, targets and precisions: effsam.toml.")
    ] = Path("effsam.toml"),
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells at once.")] = 1,
    memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--memory", help="GB that all cells may take together [default: what is free]."
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Folder of the bundles [default: the file's]."),
    ] = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--only", help="Of all cells only this one; repeats."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be built and why, and build nothing.")
    ] = False,
    junit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--junit", help="Write a JUnit report."),
    ] = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--markdown", help="Write a table."),
    ] = None,
    scheduler: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--scheduler", help="Address of a Dask scheduler: its workers do the work."),
    ] = None,
    accept_license: AcceptLicense = False,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Export all models of a file for all its targets; what did not change is not done again.

    A cell that fails does not stop the others. Exit code 0 where every bundle is there, else that
    of the first kind of failure: 1 a check, 2 the request, 3 a missing toolchain.
    """
    from effsam_export import backends, models
    from effsam_export.matrix import config, summary, worker
    from effsam_export.matrix import run as running
    from effsam_export.matrix.cluster import Cluster, connect
    from effsam_export.matrix.store import Store
    from effsam_export.util.files import write_whole
    from effsam_export.weights.fetch import default_cache_dir

    terminal = console.Console(quiet=quiet)
    asked = config.chosen(config.load(file), only)
    if scheduler is None:
        backends.require_tracing()
    names = list(dict.fromkeys(c.model for c in asked.cells))
    for name in names:
        consent(models.get(name), accept_license, cache_dir)
    checkpoints = {
        n: acquire(models.get(n), asked.checkpoints.get(n), cache_dir, terminal) for n in names
    }
    limits = running.Limits(jobs=jobs)
    if memory is not None:
        limits = running.Limits(jobs=jobs, memory_mb=memory * LARGE)
    store = Store((cache_dir or default_cache_dir()) / "build")
    execute, environment = worker.run, running.this_machine
    if scheduler is not None:
        cluster = Cluster(connect(scheduler), asked.requires)
        execute, environment = cluster.execute, cluster.environment
        # The workers share out cores and memory among themselves.
        limits = running.Limits(jobs=cluster.slots, memory_mb=float("inf"))
    planned = running.plan(asked, checkpoints, store, limits, environment)
    if plan:
        if json:
            console.document(summary.plan_document(planned))
        else:
            console.data(plan_table(planned))
        return
    place = output or asked.output
    with console.Board([p.cell.name for p in planned], quiet=quiet) as board:

        def on_event(event: Event) -> None:
            if event.result is None:
                board.started(event.cell.name)
            else:
                answer = event.result.answer
                board.done(
                    event.cell.name,
                    passed=answer.passed,
                    seconds=answer.seconds,
                    detail=detail(event),
                )

        results = running.run(planned, store, place, limits, on_event, execute)
    code = summary.exit_code(results)
    if junit is not None:
        write_whole(junit, summary.junit(results).encode())
    if markdown is not None:
        write_whole(markdown, summary.markdown(results).encode())
    if json:
        console.document(summary.document(results))
    for result in results:
        if not result.answer.passed:
            terminal.message(f"\n{result.cell.name}: {result.answer.message}")
            if result.evidence is not None:
                terminal.message(f"  everything it said is in `{result.evidence}`")
            elif result.answer.hint:
                terminal.message(f"  {result.answer.hint}")
    if all(r.cached for r in results):
        terminal.message("nothing was converted: nothing that a bundle follows from has changed")
    terminal.result(passed=code == 0, what=f"{file}, {summary.sentence(results)}")
    raise typer.Exit(code)


def serve(
    scheduler: Annotated[
        str, typer.Option("--scheduler", help="Address, as `dask scheduler` prints it.")
    ],
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Cells at once.")] = 1,
    memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--memory", help="GB for all cells together [default: what is free]."),
    ] = None,
    label: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--label", help="What this machine is, as `jetson-orin`; repeats."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Work for builds elsewhere, with the toolchains that are installed here, until stopped."""
    from effsam_export import backends
    from effsam_export.matrix import cluster, keys
    from effsam_export.matrix.run import free_memory_mb

    terminal = console.Console(quiet=quiet)
    backends.require_tracing()
    here = keys.here(tuple(label or ()))
    able = [name for name in backends.BACKENDS if here.lacks(name, "fp32") is None]
    terminal.message(f"{', '.join(here.labels)}: can do {', '.join(able)}")
    room = free_memory_mb() if memory is None else memory * LARGE
    cluster.serve(scheduler, jobs, room, here.labels)


def detail(event: Event) -> str:
    """What is said of a cell that is done."""
    result = event.result
    assert result is not None
    answer = result.answer
    if not answer.passed:
        return f"{answer.state}: {answer.message.splitlines()[0]}"
    figure = "" if answer.min_iou is None else f", min mask IoU {answer.min_iou:.4f}"
    if result.cached:
        return f"{answer.state}{figure}, from the cache"
    return f"{answer.state}{figure}, {answer.peak_mb / LARGE:.1f} GB; {'; '.join(result.reasons)}"


def plan_table(planned: Sequence[Planned]) -> str:
    """What would be built, and why."""
    rows = [
        [p.cell.name, "from the cache" if p.bundle else "build", "; ".join(p.reasons)]
        for p in planned
    ]
    return console.table(("cell", "", "why"), rows)
