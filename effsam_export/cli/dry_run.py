"""`effsam export --dry-run`: the plan of an export, its expected cost, and what would stop it."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from effsam_export.cli import console
from effsam_export.matrix.run import free_memory_mb
from effsam_export.models.export_costs import BASIS, cost_of
from effsam_export.pipeline.forecast import WouldFail, forecast
from effsam_export.pipeline.int8 import in_words, settled
from effsam_export.spec import batches
from effsam_export.spec.sizes import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from effsam_export.models.export_costs import ExportCost
    from effsam_export.pipeline.forecast import Forecast
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.stages import Checkpoint

MINUTE_S = 60
MB_PER_GB = 1000
MB = 1_000_000


def dry_run(
    request: ExportRequest,
    own: Checkpoint | None,
    *,
    sized: bool,
    accept_license: bool,
    cache_dir: Path | None,
    as_json: bool,
    terminal: console.Console,
) -> None:
    """Print what an export would do. Nothing is written or downloaded.

    Args:
        request: Without its checkpoint.
        own: The user's checkpoint; None for the official one.
        sized: The user asks for the model's size of input.
        accept_license: The user accepts a licence that restricts use.
        cache_dir: Folder of downloads; None for the user's.
        as_json: Print a JSON document.
        terminal: Prints notes and warnings.

    Raises:
        EffsamError: The export would fail; with the exit code that it would have.
    """
    found = forecast(request, own, sized=sized, accept_license=accept_license, cache_dir=cache_dir)
    cost = cost_of(request.model.name, request.target.backend, request.target.precision)
    plan = plan_of(request, found, int8_words(request, found, own))
    if as_json:
        problems = [
            {"message": p.message, "hint": p.hint, "exit_code": p.exit_code} for p in found.problems
        ]
        expected = {**asdict(cost), "basis": BASIS}
        console.document({"plan": plan, "expected": expected, "problems": problems})
    else:
        rows = []
        for key, value in {**plan, "checkpoint": checkpoint_words(found), **words(cost)}.items():
            if isinstance(value, dict):
                rows += [[f"{key}.{k}", str(v)] for k, v in value.items()]
            else:
                rows.append([key, " ".join(value) if isinstance(value, list) else str(value)])
        console.data(console.table(("what", "value"), rows))
    if found.note:
        terminal.message(f"note: {found.note}")
    for line in warnings(request, cost):
        terminal.message(f"warning: {line}")
    if found.problems:
        raise found.problems[0] if len(found.problems) == 1 else WouldFail(found.problems)


def int8_words(request: ExportRequest, found: Forecast, own: Checkpoint | None) -> dict[str, str]:
    """Return how each component is quantized, in one line each; none for another precision."""
    if request.int8 is None:
        return {}
    official = found.model.weights
    sha256 = own.sha256 if own is not None else official.sha256 if official is not None else None
    int8 = settled(request.int8, found.model, sha256)
    return in_words(int8, request.component_names, request.target.backend)


def plan_of(request: ExportRequest, found: Forecast, recipes: Mapping[str, str]) -> dict[str, Any]:
    """Return what an export would do, as a JSON object."""
    target, weights = request.target, found.weights
    gates = target.gates
    return {
        "model": found.model.name,
        "model_options": dict(found.model.options),
        "image_size": text_of(found.model.preprocess.image_size),
        "batch": batches.text_of(found.model.batch),
        "checkpoint": {
            "path": str(weights.path) if weights and weights.path else None,
            "source": weights.source if weights else None,
            "download_bytes": weights.download_bytes if weights else None,
        },
        "target": target.name,
        "backend": target.backend,
        "precision": target.precision,
        "opset": target.opset,
        "target_options": dict(target.options),
        "gates": {
            "mask_iou": gates.mask_iou,
            "score_error": gates.score_error,
            "cosine": gates.cosine,
            "mean_iou": gates.mean_iou,
        },
        **({"int8": dict(recipes)} if recipes else {}),
        "components": list(request.component_names),
        "output": str(request.output),
    }


def checkpoint_words(found: Forecast) -> str:
    """Return where the weights are, in words."""
    if found.weights is None:
        return "none"
    if found.weights.path is not None:
        return str(found.weights.path)
    size = found.weights.download_bytes
    amount = "" if size is None else f"{size / MB:.1f} MB "
    return f"download of {amount}from {found.weights.source}"


def words(cost: ExportCost) -> dict[str, str]:
    """Return the expected cost of an export, in words."""
    unknown = "not measured for this model, target and precision"
    seconds, memory, size = cost.seconds, cost.memory_mb, cost.size_mb
    if seconds is None:
        time = unknown
    elif seconds < 2 * MINUTE_S:
        time = f"about {seconds} s"
    else:
        time = f"about {round(seconds / MINUTE_S)} min"
    return {
        "expected time": time,
        "expected memory": unknown if memory is None else f"about {memory / MB_PER_GB:.1f} GB",
        "expected size": unknown if size is None else f"about {size} MB of graphs",
        "estimates": f"{BASIS}; they differ by machine",
    }


def warnings(request: ExportRequest, cost: ExportCost) -> Iterator[str]:
    """Yield what may stop an export or make its result worse, a sentence each."""
    if request.int8 is not None:
        yield from request.int8.calibration.warnings
    free = free_memory_mb()
    if cost.memory_mb is not None and cost.memory_mb > free:
        yield (
            f"about {cost.memory_mb / MB_PER_GB:.1f} GB of memory are expected, and "
            f"{free / MB_PER_GB:.1f} GB are free"
        )
    folder = request.output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder).free / MB
    if cost.size_mb is not None and cost.size_mb > disk:
        yield f"graphs of about {cost.size_mb} MB are expected, and {disk:.0f} MB of disk are free"
