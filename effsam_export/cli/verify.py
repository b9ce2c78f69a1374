"""`effsam verify`: check a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import (
    BaseFile,
    BundleOrFile,
    CacheDir,
    CheckpointFile,
    Json,
    KeyFile,
    LoraAdapter,
    ParityFile,
    Quiet,
    Verbose,
)
from effsam_export.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from effsam_export.pipeline.verify import Verification
    from effsam_export.spec.stages import Checkpoint


def verify(
    bundle: BundleOrFile,
    checkpoint: CheckpointFile = None,
    base: BaseFile = None,
    lora: LoraAdapter = None,
    level: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--level",
            help="golden: check files and golden vectors only. full: also require the comparison "
            "with PyTorch [default: compare if torch and the checkpoint are here].",
        ),
    ] = None,
    parity: ParityFile = None,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--target",
            "-t",
            metavar="FILE",
            help="TOML file of the bundle's target: holds the bundle to its gates "
            "[default: the package's target of that name].",
        ),
    ] = None,
    key: KeyFile = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    cache_dir: CacheDir = None,
) -> None:
    """Check a bundle: files, contract, golden vectors, and parity with PyTorch.

    The contract is what the manifest says of the graphs, the model and the gates. Golden vectors
    are stored inputs with the masks that the bundle must return for them.
    """
    from effsam_export.bundle import archive
    from effsam_export.pipeline import run as pipeline
    from effsam_export.pipeline import verify as library

    if level not in (None, "golden", "full"):
        raise UsageError(f"unknown level `{level}`", hint="use `golden` or `full`")
    terminal = console.Console(quiet=quiet, verbose=verbose)
    try:
        with archive.opened(bundle) as path:
            result = library.verify(
                path,
                checkpoint=_weights(path, checkpoint, base, lora, cache_dir),
                level=level,  # type: ignore[arg-type]  # checked above
                parity_file=parity,
                key=key,
                target_file=target,
                on_event=terminal.on_event,
            )
    finally:
        terminal.close()
    if json:
        console.document(
            {
                "bundle": str(bundle),
                "passed": result.passed,
                "verdict": result.verdict,
                "unproved": dict(result.unproved),
                "failures": list(result.failures),
                "golden": [
                    {
                        "case": g.case,
                        "mask_iou": g.mask_iou,
                        "score_error": g.score_error,
                        "not_compared": g.not_compared,
                    }
                    for g in result.golden
                ],
                "comparisons_not_run": result.not_run,
                "placement": list(result.placement),
                **(pipeline.figures(result.report) if result.report else {}),
            }
        )
    elif result.report is not None:
        console.data(console.parity_table(result.report))
    elif result.golden:
        rows = [
            [
                g.case,
                "not compared" if g.mask_iou is None else f"{g.mask_iou:.4f}",
                "not compared" if g.score_error is None else f"{g.score_error:.1e}",
            ]
            for g in result.golden
        ]
        console.data(console.table(("golden vector", "mask IoU", "score error"), rows))
    for line in (*_not_proved(result), *result.placement):
        terminal.message(line)
    state = f", {console.state(result.report)}" if result.report else ""
    if result.passed and "checkpoint" in result.unproved:
        state = ", checkpoint not proved"
    terminal.result(passed=result.passed, what=f"{bundle}{state}", word=result.verdict)
    if not result.passed:
        raise CheckFailed(
            "the bundle failed:", lines=result.failures or ("nothing could be checked",)
        )


def _not_proved(result: Verification) -> Iterator[str]:
    """Yield a line for each statement of the bundle that was not checked, with the reason."""
    claims = dict(result.unproved)
    if result.not_run is not None:
        first = "checkpoint not proved, " if claims.pop("checkpoint", "") else ""
        yield f"{first}not compared with PyTorch: {result.not_run}"
    for claim, reason in claims.items():
        yield f"{claim} {'unproved' if claim == 'gates' else 'not proved'}: {reason}"


def _weights(
    path: Path,
    checkpoint: Path | None,
    base: Path | None,
    lora: Path | None,
    cache_dir: Path | None,
) -> Checkpoint | None:
    """Return the given checkpoint, or the bundle's if it is in the cache; download nothing.

    Of a file with several sets of weights it is the bundle's.
    """
    from effsam_export.bundle.read import read
    from effsam_export.pipeline.verify_rules import registered_model
    from effsam_export.weights import fetch
    from effsam_export.weights.own_file import own_checkpoint

    bundle = read(path)
    entry = bundle.manifest["checkpoint"]
    # A model that does not exist is one of the failures that `verify` names.
    model, _ = registered_model(bundle)
    weights = None if model is None else model.weights
    key = bundle.checkpoint_key
    alpha = entry.get("lora", {}).get("alpha") if lora else None
    own = own_checkpoint(weights, checkpoint, key if checkpoint else None, base, lora, alpha)
    if own is not None or weights is None:
        return own
    cached = fetch.cached(weights, cache_dir=cache_dir or fetch.default_cache_dir())
    return cached if cached is not None and cached.sha256 == entry["sha256"] else None
