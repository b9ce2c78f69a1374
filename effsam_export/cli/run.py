"""`effsam run`: segment an image with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import BundlePath, Json, Quiet
from effsam_export.errors import OutputError, PromptError, shown
from effsam_export.util.numbers import to_number
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from effsam_export.imaging.pixels import Decoded, ValueRange
    from effsam_export.inference.segment import Segmentation
    from effsam_export.spec.prompts import Point, Prompt
    from effsam_export.spec.tensors import Float32


def run(
    bundle: BundlePath,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A JPEG, PNG or TIFF file.")],
    point: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--point",
            metavar="X,Y[,LABEL]",
            help="A click: label 1 (default) on the object, 0 off it.",
        ),
    ] = None,
    box: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--box",
            metavar="X0,Y0,X1,Y1",
            help="One box and all points form one prompt. Several boxes are separate prompts.",
        ),
    ] = None,
    mask_input: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--mask-input", help="Use the best mask of an earlier --masks file as mask input."
        ),
    ] = None,
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--text", help="Text prompt of FastSAM; not supported yet (it needs CLIP)."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--everything",
            help="Automatic mask generation: all masks of the image, without a prompt.",
        ),
    ] = False,
    grid: Annotated[
        int,
        typer.Option(
            "--grid",
            min=1,
            max=256,
            help="With --everything: number of grid points along each side.",
        ),
    ] = 32,
    single_mask: Annotated[
        bool,
        typer.Option(
            "--single-mask",
            help="Use the single-mask output of the model, not its multimask outputs.",
        ),
    ] = False,
    value_range: Annotated[
        str,
        typer.Option(
            "--range",
            metavar="auto|full|LOW,HIGH",
            help="Values that become black and white. For images of more than 8 bits, auto takes "
            "the least of 8, 10, 12, 14 and 16 bits that hold them, full all of the file's type.",
        ),
    ] = "auto",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Write an overlay: the mask drawn over the image (PNG, JPEG)."
        ),
    ] = None,
    masks: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--masks", help="Write all masks, scores and logits to a NumPy file (.npz)."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment an image with a bundle. Coordinates are pixels of the original image."""
    import numpy as np

    from effsam_export.bundle import read
    from effsam_export.config.value_range import range_of_option
    from effsam_export.imaging import overlay
    from effsam_export.inference import segment
    from effsam_export.util.files import require_output

    for path in (output, masks):
        if path is not None:
            require_output(path)
        if path is not None and path.exists() and image.exists() and path.samefile(image):
            raise OutputError(f"`{path}` is the input image", hint="choose another name")
    if output is not None:
        overlay.check_suffix(output)
    if masks is not None and masks.suffix != segment.MASK_SUFFIX:
        raise OutputError(
            f"masks file `{masks}` does not end in `{segment.MASK_SUFFIX}`",
            hint=f"end the name in `{segment.MASK_SUFFIX}`",
        )
    if text is not None:
        raise PromptError(
            "text prompts are not supported: they need CLIP, which is not part of this package",
            hint="give --point, --box or --everything",
        )
    chosen = range_of_option(value_range)
    if everything:
        given = [o for o, v in (("--point", point), ("--box", box)) if v]
        given += ["--mask-input"] if mask_input is not None else []
        given += ["--single-mask"] if single_mask else []
        if given:
            raise PromptError(
                f"--everything cannot be combined with {' and '.join(given)}", hint="leave one out"
            )
        show_automatic_masks(bundle, image, grid, chosen, output, masks, as_json=json, quiet=quiet)
        return
    mask_logits = None
    if mask_input is not None:
        size = read.read(bundle).model.masks.low_res_size
        mask_logits = segment.load_mask_input(mask_input, size)
    prompts = to_prompts(point or [], box or [], mask_logits)
    result = segment.segment(bundle, image, prompts, single_mask=single_mask, value_range=chosen)
    if output is not None:
        # With several boxes, the overlay shows the union of their masks.
        shown = np.logical_or.reduce(result.prediction.masks[: len(prompts)])
        drawn = overlay.draw(
            result.decoded.pixels,
            shown,
            points=[(p.x, p.y, p.label) for q in prompts for p in q.points],
            boxes=[q.box for q in prompts if q.box is not None],
        )
        overlay.save(drawn, output)
    if masks is not None:
        segment.save_masks(result.prediction, masks)
    terminal = console.Console(quiet=quiet)
    show_notes(result.decoded, image, terminal)
    show(result, as_json=json)
    for path in (output, masks):
        if path is not None:
            terminal.message(f"wrote {path}")


def show_notes(decoded: Decoded, image: Path, terminal: console.Console) -> None:
    """Print how an image was read, if it is not a plain 8-bit one."""
    for note in decoded.notes:
        terminal.message(f"note: image `{image}` {note}")


def image_document(decoded: Decoded) -> dict[str, Any]:
    """Return the image of a JSON document."""
    h, w = decoded.pixels.shape[:2]
    return {
        "width": w,
        "height": h,
        "range": [decoded.low, decoded.high],
        "notes": list(decoded.notes),
    }


def show(result: Segmentation, *, as_json: bool) -> None:
    """Print score, bounding box and area of each mask."""
    from effsam_export.inference.segment import bounding_box

    p = result.prediction
    boxes = [bounding_box(m) for m in p.masks]
    areas = [int(m.sum()) for m in p.masks]
    if as_json:
        rows = [
            {"index": i, "score": float(s), "box": list(b) if b else None, "area": a}
            for i, s, b, a in zip(p.indices, p.scores, boxes, areas, strict=True)
        ]
        console.document({"image": image_document(result.decoded), "masks": rows})
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
    value_range: ValueRange,
    output: Path | None,
    masks: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Generate all masks of an image, write the requested files, and print a row for each mask."""
    from effsam_export.imaging import overlay
    from effsam_export.inference import overlay_many, segment
    from effsam_export.inference.automatic_masks import GridSettings

    terminal = console.Console(quiet=quiet)
    try:
        with stage("masks", terminal.on_event) as running:
            result = segment.generate_masks(
                bundle,
                image,
                GridSettings(points_per_side=per_side),
                running.on_progress,
                value_range,
            )
            running.detail = f"{len(result.records)} masks"
    finally:
        terminal.close()
    show_notes(result.decoded, image, terminal)
    if output is not None:
        overlay.save(overlay_many.draw(result.decoded.pixels, result.records), output)
    if masks is not None:
        segment.save_automatic_masks(result, masks)
    if as_json:
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
        console.document({"image": image_document(result.decoded), "masks": rows})
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
    for path in (output, masks):
        if path is not None:
            terminal.message(f"wrote {path}")


def to_prompts(points: list[str], boxes: list[str], mask_input: Float32 | None) -> list[Prompt]:
    """Return the prompts of the options: one prompt, or one for each of several boxes.

    Raises:
        PromptError: A value is malformed, or points or a mask are combined with several boxes.
    """
    from effsam_export.spec.prompts import MAX_POINTS, Prompt

    for option, given in (("--point", points), ("--box", boxes)):
        if len(given) > MAX_POINTS:
            raise PromptError(
                f"{option} is given {len(given)} times", hint=f"give it {MAX_POINTS} times at most"
            )
    parsed = [_box(b) for b in boxes]
    clicks = tuple(_point(p) for p in points)
    if len(parsed) > 1:
        if clicks or mask_input is not None:
            what = "--point" if clicks else "--mask-input"
            raise PromptError(
                f"{what} can be combined with one --box, not with {len(parsed)}",
                hint="several boxes are separate prompts: run them one at a time",
            )
        return [Prompt(box=b) for b in parsed]
    if not parsed and not clicks:
        raise PromptError("there is no prompt", hint="give --point X,Y or --box X0,Y0,X1,Y1")
    return [Prompt(points=clicks, box=parsed[0] if parsed else None, mask_input=mask_input)]


def _numbers(text: str, option: str, form: str, counts: tuple[int, ...]) -> list[float]:
    numbers = [to_number(part) for part in text.split(",")]
    values = [n for n in numbers if n is not None]
    if len(values) not in counts or len(values) != len(numbers):
        raise PromptError(
            f"{option} `{shown(text)}` is not {form}",
            hint=f"write {option} {form}, in pixels of the original image",
        )
    return values


def _point(text: str) -> Point:
    from effsam_export.spec.prompts import Point

    x, y, *label = _numbers(text, "--point", "X,Y[,LABEL]", (2, 3))
    if label and label[0] not in (0, 1):
        raise PromptError(
            f"--point `{shown(text)}` has label {label[0]:g}", hint="1: on the object, 0: off it"
        )
    return Point(x=x, y=y, label=int(label[0]) if label else 1)


def _box(text: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers(text, "--box", "X0,Y0,X1,Y1", (4,))
    return x0, y0, x1, y1
