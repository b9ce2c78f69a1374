"""`effsam run`: segment images with a bundle."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from effsam_export.cli import console
from effsam_export.cli.options import BundleOrFile, Json, Quiet
from effsam_export.cli.run_options import (
    Boxes,
    Everything,
    Format,
    Grid,
    Images,
    MaskInput,
    Masks,
    Normalized,
    Overlay,
    Points,
    PromptsFile,
    Range,
    SingleMask,
    Text,
)
from effsam_export.cli.run_prompts import check_combination, chosen_format, to_prompts
from effsam_export.errors import ImageError, PromptError
from effsam_export.util.problems import Problems
from effsam_export.util.progress import StageEvent

if TYPE_CHECKING:
    from effsam_export.bundle.read import Bundle
    from effsam_export.inference.plan import Plan, Request


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
    single_mask: SingleMask = False,
    value_range: Range = "auto",
    output: Overlay = None,
    masks: Masks = None,
    print_format: Format = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment images with a bundle. Coordinates are pixels of the original image."""
    from effsam_export.bundle import archive, read
    from effsam_export.config.value_range import range_of_option
    from effsam_export.inference.automatic_masks import GridSettings
    from effsam_export.inference.image_list import are_several
    from effsam_export.inference.outputs import Outputs
    from effsam_export.inference.plan import Request, plan
    from effsam_export.inference.run_records import RunSettings

    problems = Problems()
    check_combination(
        {
            "--point": bool(point),
            "--box": bool(box),
            "--prompts": prompts is not None,
            "--normalized": normalized,
            "--mask-input": mask_input is not None,
            "--single-mask": single_mask,
        },
        {"--grid": grid is not None},
        problems,
        everything=everything,
        has_file=prompts is not None,
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
            grid=GridSettings(points_per_side=grid or 32) if everything else None,
            several=several,
        )
        with problems.gather():
            settings = replace(settings, value_range=range_of_option(value_range))
        request = Request(
            model=None if opened is None else opened.model,
            images=tuple(images),
            settings=settings,
            outputs=Outputs(overlay=output, masks=masks, several=several),
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
        _run(opened, planned, request, chosen, quiet=quiet)


def _run(bundle: Bundle, planned: Plan, request: Request, chosen: str, *, quiet: bool) -> None:
    """Segment the images, write the outputs, and print the masks.

    Raises:
        EffsamError: An image cannot be read; the others are done all the same.
    """
    from effsam_export.cli.run_output import Printer, title
    from effsam_export.inference import outputs
    from effsam_export.inference.coco import CocoDocument
    from effsam_export.inference.run_images import segment_images

    terminal = console.Console(quiet=quiet)
    coco = CocoDocument(planned.categories, f"masks of {title(bundle)}")
    printer = Printer(terminal, request.settings, chosen, coco)
    for note in planned.notes:
        terminal.message(f"note: {note}")
    unreadable = Problems()

    def on_progress(done: int, total: int) -> None:
        terminal.on_event(StageEvent(kind="advanced", stage="prompts", done=done, total=total))

    try:
        for result in segment_images(bundle.path, planned.tasks, request.settings, on_progress):
            terminal.close()
            if isinstance(result, ImageError):
                unreadable.add(result)
            else:
                printer.add(result, outputs.write(result, request.outputs))
    finally:
        terminal.close()
    if not unreadable.errors or request.settings.several:
        printer.finish([e.message for e in unreadable.errors])
    unreadable.raise_any("some images cannot be read")
