"""`effsam build`: export all cells of a build file; `effsam worker`: serve remote builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.fetch import acquire, consent
from effsam_export.cli.options import AcceptLicense, CacheDir, Json, Quiet, Verbose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.matrix.config import Build
    from effsam_export.matrix.run import Event, PlannedCell
    from effsam_export.spec.model import WeightFile
    from effsam_export.spec.stages import Checkpoint

MB_PER_GB = 1000.0
BYTES_PER_MB = 1e6
TlsCaFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--tls-ca-file", help="Certificate of the authority of the cluster, PEM."),
]
TlsCert = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--tls-cert", help="Certificate of this machine for the cluster, PEM."),
]
TlsKey = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--tls-key", help="Private key of that certificate, PEM."),
]


def build(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Build file with models, targets and precisions.")
    ] = Path("effsam.toml"),
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=1, max=1024, help="Number of exports at the same time."),
    ] = 1,
    memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--memory",
            min=0,
            help="Memory limit of all exports together, in GB [default: free memory].",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Output folder of the bundles [default: the file's]."),
    ] = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--only", help="Build only this cell; repeatable."),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Print what would be built and why. Build and download nothing."
        ),
    ] = False,
    junit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--junit", help="Write a JUnit report to this file."),
    ] = None,
    markdown: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--markdown", help="Write a Markdown table to this file."),
    ] = None,
    scheduler: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--scheduler",
            help="Address of a Dask scheduler; its workers run the exports. Warning: everyone who "
            "can reach a scheduler can run any code on all its workers, as the user of the worker, "
            "and a scheduler can send any code to this machine. Use only your own.",
        ),
    ] = None,
    tls_ca_file: TlsCaFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    accept_license: AcceptLicense = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    cache_dir: CacheDir = None,
) -> None:
    """Export all models and targets of a build file.

    A cell is one model, target and precision. Results with unchanged inputs come from the cache.
    A failed cell does not stop the others. The exit code is 0 if all bundles were written.
    Otherwise it is 1 if a check failed, else 2 for wrong input, else 3 for a missing package.
    """
    from effsam_export import backends
    from effsam_export.matrix import config, summary, worker
    from effsam_export.matrix import run as running
    from effsam_export.matrix.cluster import Cluster, connect
    from effsam_export.matrix.store import Store
    from effsam_export.matrix.tls import TlsFiles
    from effsam_export.util.files import require_output, write_whole
    from effsam_export.weights.fetch import default_cache_dir

    terminal = console.Console(quiet=quiet, verbose=verbose)
    matrix = config.select_cells(config.load(file), only)
    directory = output or matrix.output
    require_output(directory / max((c.name for c in matrix.cells), key=len), directory=True)
    for report in (junit, markdown):
        if report is not None:
            require_output(report)
    if scheduler is None:
        backends.require_tracing()
    checkpoints, downloads = checkpoints_of(
        matrix, cache_dir, terminal, accept_license=accept_license, plan=plan
    )
    limits = running.Limits(jobs=jobs)
    if memory is not None:
        limits = running.Limits(jobs=jobs, memory_mb=memory * MB_PER_GB)
    store = Store((cache_dir or default_cache_dir()) / "build", read_only=plan)
    execute, environment, stop = worker.run, running.this_machine, worker.stop
    if scheduler is not None:
        tls = TlsFiles(ca_file=tls_ca_file, cert=tls_cert, key=tls_key)
        cluster = Cluster(connect(scheduler, tls), matrix.requires)
        execute, environment, stop = cluster.execute, cluster.environment, cluster.stop
        # Cores and memory are the workers' own limits.
        limits = running.Limits(jobs=cluster.slots, memory_mb=float("inf"))
    planned = running.plan(matrix, checkpoints, store, limits, environment)
    if plan:
        if json:
            console.document(summary.plan_document(planned, downloads))
        else:
            console.data(plan_table(planned))
        for model, weights in downloads.items():
            size = "" if weights.size is None else f", {weights.size / BYTES_PER_MB:.1f} MB"
            terminal.message(f"note: the build downloads {weights.file_name} of {model}{size}")
        return
    names = [p.cell.name for p in planned]
    # Details would tear a live table apart.
    with console.Board(names, quiet=quiet, live=not verbose) as board:

        def on_event(event: Event) -> None:
            if event.result is None:
                board.started(event.cell.name)
            else:
                outcome = event.result.outcome
                board.done(
                    event.cell.name,
                    passed=outcome.passed,
                    seconds=outcome.seconds,
                    detail=detail(event),
                )

        results = running.run(planned, store, directory, limits, on_event, execute, stop)
    code = summary.exit_code(results)
    if junit is not None:
        write_whole(junit, summary.junit(results).encode())
    if markdown is not None:
        write_whole(markdown, summary.markdown(results).encode())
    if json:
        console.document(summary.document(results))
    for result in results:
        if not result.outcome.passed:
            terminal.message("", *f"{result.cell.name}: {result.outcome.message}".split("\n"))
            if result.evidence is not None:
                terminal.message(f"  full output: `{result.evidence}`")
            elif result.outcome.hint:
                terminal.message(f"  {result.outcome.hint}")
    if all(r.cached for r in results):
        terminal.message("nothing was converted: no input of a bundle has changed")
    terminal.result(passed=code == 0, what=f"{file}, {summary.sentence(results)}")
    raise typer.Exit(code)


def serve(
    scheduler: Annotated[
        str, typer.Option("--scheduler", help="Address that `dask scheduler` prints.")
    ],
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=1, max=1024, help="Number of exports at the same time."),
    ] = 1,
    memory: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--memory",
            min=0,
            help="Memory limit of all exports together, in GB [default: free memory].",
        ),
    ] = None,
    label: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--label", help="Label of this machine, such as `jetson-orin`; repeatable."),
    ] = None,
    dashboard_port: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--dashboard-port",
            min=0,
            max=65535,
            help="Serve Dask's status pages on this port [default: no pages].",
        ),
    ] = None,
    tls_ca_file: TlsCaFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run exports for builds on other machines, until stopped.

    `effsam build --scheduler` sends the exports, through a Dask scheduler.

    Warning: everyone who can reach the scheduler or this worker can run any code on this machine,
    as the user who started the worker. Use a scheduler of your own in a network that you trust, or
    TLS. The worker listens on one port, of this machine's address on the route to the scheduler.
    """
    from effsam_export import backends
    from effsam_export.matrix import cluster, keys
    from effsam_export.matrix.run import free_memory_mb
    from effsam_export.matrix.tls import TlsFiles

    terminal = console.Console(quiet=quiet, verbose=verbose)
    backends.require_tracing()
    here = keys.this_environment(tuple(label or ()))
    usable = [name for name in backends.BACKENDS if here.lacks(name, "fp32") is None]
    terminal.message(f"{', '.join(here.labels)}: backends {', '.join(usable)}")
    memory_mb = free_memory_mb() if memory is None else memory * MB_PER_GB
    cluster.serve(
        scheduler,
        jobs,
        memory_mb,
        here.labels,
        dashboard_port=dashboard_port,
        tls=TlsFiles(ca_file=tls_ca_file, cert=tls_cert, key=tls_key),
    )


def checkpoints_of(
    build: Build,
    cache_dir: Path | None,
    terminal: console.Console,
    *,
    accept_license: bool,
    plan: bool,
) -> tuple[dict[str, Checkpoint], dict[str, WeightFile]]:
    """Return the checkpoint of each model, and what a planned build would download.

    Args:
        build: The build file.
        cache_dir: The cache; None for the user's.
        terminal: Shows downloads and notes.
        accept_license: Accept licences that restrict use.
        plan: Write and download nothing; a checkpoint that is not here is the expected one.

    Raises:
        EffsamError: Consent is missing, or a checkpoint cannot be had.
    """
    from effsam_export import models
    from effsam_export.weights.acquire import expected
    from effsam_export.weights.fetch import default_cache_dir
    from effsam_export.weights.own_file import own_checkpoint

    specs = {name: models.get(name) for name in dict.fromkeys(c.model for c in build.cells)}
    for spec in specs.values():
        consent(spec, accept_license, cache_dir, store=not plan)
    checkpoints: dict[str, Checkpoint] = {}
    downloads: dict[str, WeightFile] = {}
    for name, spec in specs.items():
        given = build.checkpoints.get(name)
        own = None
        if given is not None:
            own = own_checkpoint(
                spec.weights, given.file, given.key, given.base, given.lora, given.lora_alpha
            )
        if own is not None or not plan:
            checkpoints[name] = acquire(spec, own, cache_dir, terminal)
            continue
        checkpoints[name], missing = expected(spec, cache_dir=cache_dir or default_cache_dir())
        if missing and spec.weights is not None:
            downloads[name] = spec.weights
    return checkpoints, downloads


def detail(event: Event) -> str:
    """Return the result of a finished cell in a few words."""
    result = event.result
    assert result is not None
    outcome = result.outcome
    if not outcome.passed:
        return f"{outcome.state}: {outcome.message.splitlines()[0]}"
    figure = "" if outcome.min_iou is None else f", min mask IoU {outcome.min_iou:.4f}"
    if result.cached:
        return f"{outcome.state}{figure}, from the cache"
    reasons = "; ".join(result.reasons)
    return f"{outcome.state}{figure}, {outcome.peak_mb / MB_PER_GB:.1f} GB; {reasons}"


def plan_table(planned: Sequence[PlannedCell]) -> str:
    """Return the table of what would be built, and why."""
    rows = [
        [p.cell.name, "from the cache" if p.bundle else "build", "; ".join(p.reasons)]
        for p in planned
    ]
    return console.table(("cell", "", "why"), rows)
