"""`effsam run`: masks on a photograph, with any bundle that runs here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import BundlePath, Json, Quiet
from effsam_export.errors import OutputError, PromptError
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from effsam_export.inference.segment import Segmentation
    from effsam_export.spec.prompts import Point, Prompt
    from effsam_export.spec.tensors import Float32


def run(
    bundle: BundlePath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A JPEG or PNG file.")],
    point: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--point", metavar="X,Y[,LABEL]", help="Label 1 is on the object (default), 0 off it."
        ),
    ] = None,
    box: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--box",
            metavar="X0,Y0,X1,Y1",
            help="With one box, points and box are one prompt; several boxes are several prompts.",
        ),
    ] = None,
    mask_input: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--mask-input", help="Feed the best logits of an earlier --masks file back."),
    ] = None,
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--text", help="FastSAM's text prompt; needs CLIP, not available yet."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="All masks of the photograph, without a prompt.")
    ] = False,
    grid: Annotated[
        int,
        typer.Option("--grid", min=1, max=256, help="With --everything: points along each side."),
    ] = 32,
    single_mask: Annotated[
        bool, typer.Option("--single-mask", help="The model's one-mask output, not its set.")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Write the best mask over the photograph (PNG, JPEG)."),
    ] = None,
    masks: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--masks", help="Write all masks, scores and logits (.npz)."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment a photograph; all coordinates are pixels of the original image."""
    import numpy as np

    from effsam_export.bundle import read
    from effsam_export.imaging import overlay
    from effsam_export.inference import segment

    for place in (output, masks):
        if place is not None and place.exists() and image.exists() and place.samefile(image):
            raise OutputError(f"`{place}` is the photograph itself", hint="choose another name")
    if output is not None:
        overlay.check_suffix(output)
    if masks is not None and masks.suffix != segment.MASK_SUFFIX:
        raise OutputError(
            f"masks file `{masks}` does not end in `{segment.MASK_SUFFIX}`", hint="rename it"
        )
    if text is not None:
        raise PromptError(
            "text prompts need CLIP, whose weights no FastSAM checkpoint holds and which this "
            "version cannot run",
            hint="give --point, --box or --everything",
        )
    if everything:
        given = [o for o, v in (("--point", point), ("--box", box)) if v]
        given += ["--mask-input"] if mask_input is not None else []
        given += ["--single-mask"] if single_mask else []
        if given:
            raise PromptError(
                f"--everything takes no {' and no '.join(given)}", hint="leave one of them out"
            )
        show_automatic_masks(bundle, image, grid, output, masks, as_json=json, quiet=quiet)
        return
    fed_back = None
    if mask_input is not None:
        size = read.read(bundle).model.masks.low_res_size
        fed_back = segment.load_mask_input(mask_input, size)
    prompts = to_prompts(point or [], box or [], fed_back)
    found = segment.segment(bundle, image, prompts, single_mask=single_mask)
    if output is not None:
        # Several boxes have a mask each; one prompt has one best mask.
        shown = np.logical_or.reduce(found.prediction.masks[: len(prompts)])
        drawn = overlay.draw(
            found.image,
            shown,
            points=[(p.x, p.y, p.label) for q in prompts for p in q.points],
            boxes=[q.box for q in prompts if q.box is not None],
        )
        overlay.save(drawn, output)
    if masks is not None:
        segment.save_masks(found.prediction, masks)
    terminal = console.Console(quiet=quiet)
    show(found, as_json=json)
    for place in (output, masks):
        if place is not None:
            terminal.message(f"wrote {place}")


def show(found: Segmentation, *, as_json: bool) -> None:
    """Print score, box and area of each mask."""
    from effsam_export.inference.segment import bounding_box

    p = found.prediction
    boxes = [bounding_box(m) for m in p.masks]
    areas = [int(m.sum()) for m in p.masks]
    if as_json:
        rows = [
            {"index": i, "score": float(s), "box": list(b) if b else None, "area": a}
            for i, s, b, a in zip(p.indices, p.scores, boxes, areas, strict=True)
        ]
        h, w = found.image.shape[:2]
        console.document({"image": {"width": w, "height": h}, "masks": rows})
        return
    table = [
        [
            str(i),
            f"{s:.3f}",
            f"({b[0]},{b[1]})-({b[2]},{b[3]})" if b else "empty",
            str(a),
        ]
        for i, s, b, a in zip(p.indices, p.scores, boxes, areas, strict=True)
    ]
    console.data(console.table(("mask", "score", "box", "pixels"), table))


def show_automatic_masks(
    bundle: Path,
    image: Path,
    per_side: int,
    output: Path | None,
    masks: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find all masks, write what was asked for, and print a row for each."""
    from effsam_export.imaging import overlay
    from effsam_export.inference import overlay_many, segment
    from effsam_export.inference.automatic_masks import GridSettings

    terminal = console.Console(quiet=quiet)
    try:
        with stage("everything", terminal.on_event) as running:
            result = segment.generate_masks(
                bundle, image, GridSettings(points_per_side=per_side), running.on_progress
            )
            running.detail = f"{len(result.records)} masks"
    finally:
        terminal.close()
    if output is not None:
        overlay.save(overlay_many.draw(result.image, result.records), output)
    if masks is not None:
        segment.save_automatic_masks(result, masks)
    if as_json:
        h, w = result.image.shape[:2]
        rows = [
            {
                "score": f.score,
                "stability": f.stability,
                "box": list(f.box),
                "area": f.area,
                "point": None if f.point is None else list(f.point),
            }
            for f in result.records
        ]
        console.document({"image": {"width": w, "height": h}, "masks": rows})
    else:
        table = [
            [
                str(i),
                f"{f.score:.3f}",
                "" if f.stability is None else f"{f.stability:.3f}",
                f"({f.box[0]},{f.box[1]})-({f.box[2]},{f.box[3]})",
                str(f.area),
            ]
            for i, f in enumerate(result.records)
        ]
        console.data(console.table(("mask", "score", "stability", "box", "pixels"), table))
    for place in (output, masks):
        if place is not None:
            terminal.message(f"wrote {place}")


def to_prompts(points: list[str], boxes: list[str], mask_input: Float32 | None) -> list[Prompt]:
    """Turn the options into prompts: at most one box makes one prompt, more make one each.

    Raises:
        PromptError: A value is malformed, or points or a mask stand beside several boxes.
    """
    from effsam_export.spec.prompts import Prompt

    parsed = [_box(b) for b in boxes]
    clicks = tuple(_point(p) for p in points)
    if len(parsed) > 1:
        if clicks or mask_input is not None:
            what = "--point" if clicks else "--mask-input"
            raise PromptError(
                f"{what} goes with one --box, not with {len(parsed)}",
                hint="several boxes are several prompts; run them one at a time",
            )
        return [Prompt(box=b) for b in parsed]
    if not parsed and not clicks:
        raise PromptError("there is no prompt", hint="give --point X,Y or --box X0,Y0,X1,Y1")
    return [Prompt(points=clicks, box=parsed[0] if parsed else None, mask_input=mask_input)]


def _numbers(text: str, option: str, form: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(math.isfinite(v) for v in values):
        raise PromptError(f"{option} `{text}` is not {form}", hint=f"as in {option} {form}")
    return values


def _point(text: str) -> Point:
    from effsam_export.spec.prompts import Point

    x, y, *label = _numbers(text, "--point", "X,Y[,LABEL]", (2, 3))
    if label and label[0] not in (0, 1):
        raise PromptError(
            f"--point `{text}` has label {label[0]:g}", hint="1 is on the object, 0 is off it"
        )
    return Point(x=x, y=y, label=int(label[0]) if label else 1)


def _box(text: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers(text, "--box", "X0,Y0,X1,Y1", (4,))
    return x0, y0, x1, y1
