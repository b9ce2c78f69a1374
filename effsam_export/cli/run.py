"""`effsam run`: segment images with a bundle."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from effsam_export.cli import console
from effsam_export.cli.options import BundleOrFile, Json, Quiet, Verbose
from effsam_export.cli.run_options import (
    Boxes,
    BoxNms,
    CropDownscale,
    CropLayers,
    CropNms,
    CropOverlap,
    Embedding,
    Everything,
    Format,
    Grid,
    Images,
    MaskInput,
    Masks,
    MinRegion,
    Normalized,
    Overlay,
    Points,
    PointsPerBatch,
    PredIou,
    PromptsFile,
    Range,
    SaveEmbedding,
    SingleMask,
    Stability,
    StabilityOffset,
    Text,
)
from effsam_export.cli.run_prompts import check_combination, chosen_format, to_grid, to_prompts
from effsam_export.errors import ImageError, PromptError
from effsam_export.util.problems import Problems
from effsam_export.util.progress import StageEvent

if TYPE_CHECKING:
    from effsam_export.bundle.read import Bundle
    from effsam_export.inference.plan import Plan, Request

MIN_REGION = "--min-mask-region-area"
"""Option for --everything that does not need a grid."""


def run(
    bundle: BundleOrFile,
    images: Images,
    point: Points = None,
    box: Boxes = None,
    prompts: PromptsFile = None,
    normalized: Normalized = False,
    mask_input: MaskInput = None,
    text: Text = None,
    everything: Everything = False,
    grid: Grid = None,
    points_per_batch: PointsPerBatch = None,
    pred_iou: PredIou = None,
    stability: Stability = None,
    stability_offset: StabilityOffset = None,
    box_nms: BoxNms = None,
    crop_layers: CropLayers = None,
    crop_nms: CropNms = None,
    crop_overlap: CropOverlap = None,
    crop_downscale: CropDownscale = None,
    min_region: MinRegion = None,
    single_mask: SingleMask = False,
    value_range: Range = "auto",
    output: Overlay = None,
    masks: Masks = None,
    save_embedding: SaveEmbedding = None,
    embedding: Embedding = None,
    print_format: Format = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Segment images with a bundle. Coordinates are pixels of the original image."""
    from effsam_export.bundle import archive, read
    from effsam_export.config.value_range import range_of_option
    from effsam_export.inference.embeddings import encoder_sha256
    from effsam_export.inference.image_list import are_several
    from effsam_export.inference.outputs import Outputs
    from effsam_export.inference.plan import Request, plan
    from effsam_export.inference.run_records import RunSettings

    terminal = console.Console(quiet=quiet, verbose=verbose)
    problems = Problems()
    grid_options = {
        "--grid": grid,
        "--points-per-batch": points_per_batch,
        "--pred-iou-thresh": pred_iou,
        "--stability-score-thresh": stability,
        "--stability-score-offset": stability_offset,
        "--box-nms-thresh": box_nms,
        "--crop-n-layers": crop_layers,
        "--crop-nms-thresh": crop_nms,
        "--crop-overlap-ratio": crop_overlap,
        "--crop-n-points-downscale-factor": crop_downscale,
        MIN_REGION: min_region,
    }
    check_combination(
        [
            *(["--point"] if point else []),
            *(["--box"] if box else []),
            *(["--prompts"] if prompts is not None else []),
            *(["--normalized"] if normalized else []),
            *(["--mask-input"] if mask_input is not None else []),
            *(["--single-mask"] if single_mask else []),
        ],
        [name for name, value in grid_options.items() if value is not None],
        problems,
        everything=everything,
    )
    chosen = "table"
    with problems.gather():
        chosen = chosen_format(print_format, json=json)
    if text is not None:
        problems.add(
            PromptError(
                "text prompts are not supported: they need CLIP, which is not part of this package",
                hint="give --point, --box or --everything",
            )
        )
    with ExitStack() as stack:
        opened: Bundle | None = None
        with problems.gather():
            opened = read.read(stack.enter_context(archive.opened(bundle)))
        several = are_several(images)
        settings = RunSettings(
            single_mask=single_mask,
            grid=to_grid(grid_options) if everything else None,
            several=several,
            encoder_sha256="" if opened is None else encoder_sha256(opened),
        )
        with problems.gather():
            settings = replace(settings, value_range=range_of_option(value_range))
        request = Request(
            bundle=opened,
            images=tuple(images),
            settings=settings,
            outputs=Outputs(overlay=output, masks=masks, embedding=save_embedding, several=several),
            embedding=embedding,
            prompt_file=None if everything else prompts,
            normalized=normalized,
            mask_input=None if prompts is not None else mask_input,
        )
        if not everything and prompts is None:
            with problems.gather():
                spelled = to_prompts(point or [], box or [], has_mask=mask_input is not None)
                request = replace(request, prompts=spelled)
        planned = plan(request, problems)
        problems.raise_any("the arguments are wrong")
        assert opened is not None, "an error was gathered"
        unused = [o for o, v in grid_options.items() if v is not None and o != MIN_REGION]
        if unused and opened.model.finds_instances:
            note = f"`{opened.model.name}` finds all instances at once: {' and '.join(unused)} "
            note += f"{'is' if len(unused) == 1 else 'are'} not used"
            planned = replace(planned, notes=(*planned.notes, note))
        _run(opened, planned, request, chosen, terminal)


def _run(
    bundle: Bundle, planned: Plan, request: Request, chosen: str, terminal: console.Console
) -> None:
    """Segment the images, write the outputs, and print the masks.

    Raises:
        EffsamError: An image cannot be read; the others are done all the same.
    """
    from effsam_export.cli.run_output import Printer, title
    from effsam_export.inference import outputs
    from effsam_export.inference.coco import CocoDocument
    from effsam_export.inference.run_images import segment_images

    coco = CocoDocument(planned.categories, f"masks of {title(bundle)}")
    printer = Printer(terminal, request.settings, chosen, coco)
    for note in planned.notes:
        terminal.message(f"note: {note}")
    unreadable = Problems()

    def on_progress(done: int, total: int) -> None:
        terminal.on_event(StageEvent(kind="advanced", stage="prompts", done=done, total=total))

    try:
        for result in segment_images(bundle, planned.tasks, request.settings, on_progress):
            terminal.close()
            if isinstance(result, ImageError):
                unreadable.add(result)
            else:
                written = outputs.write(result, request.outputs, request.settings.encoder_sha256)
                printer.add(result, written)
    finally:
        terminal.close()
    if not unreadable.errors or request.settings.several:
        printer.finish([e.message for e in unreadable.errors])
    unreadable.raise_any("some images cannot be read")
