"""A parity check as one HTML file: the verdict, what was measured, and where masks differ.

The file loads nothing, runs no script and holds no time of day: the same check gives the same
bytes, except for an INT8 export that was timed on this machine.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from PIL import Image

from effsam_export.imaging import overlay
from effsam_export.parity.metrics import mask_iou

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from effsam_export.parity.results import CaseResult, ParityReport, Picture, TensorDiff
    from effsam_export.pipeline.int8_comparison import Int8Comparison

    Row = tuple[str, tuple["Cell", ...]]

TEMPLATES = Path(__file__).resolve().parent / "templates"
POINTS = {"onnx": "PyTorch → ONNX", "artifact": "ONNX → artefact"}
PANEL_WIDTH, PANEL_HEIGHT = 360, 480
JPEG_QUALITY = 80
IN_BOTH = (160, 160, 160)


@dataclass(frozen=True, kw_only=True)
class Swatch:
    """A colour of the disagreement panel and its meaning."""

    colour: tuple[int, int, int]
    name: str


SWATCHES = (
    Swatch(colour=overlay.ONLY_REFERENCE, name="missed: reference only"),
    Swatch(colour=overlay.ONLY_ARTIFACT, name="added: artefact only"),
    Swatch(colour=IN_BOTH, name="in both"),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value in a table.

    Attributes:
        text: What is shown.
        missed: It misses its gate and is marked.
        code: It is a name, set in a fixed-width font.
    """

    text: str
    missed: bool = False
    code: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One image of a case.

    Attributes:
        source: The image as a `data:` address.
        caption: Shown below the image.
    """

    source: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class PictureView:
    """The panels of one case."""

    case: str
    panels: tuple[Panel, ...]


def render(
    report: ParityReport,
    pictures: Sequence[Picture],
    int8_comparisons: Sequence[Int8Comparison] = (),
    *,
    title: str | None = None,
) -> str:
    """Return a whole check as one HTML document, to be written as UTF-8.

    Args:
        report: The measurements. Values that miss a gate are marked; the verdict is the report's.
        pictures: Cases to show: image uint8 HxWx3 RGB, both masks bool HxW, points and box in
            pixels of the image.
        int8_comparisons: Size and latency of an INT8 export beside its FP16 and FP32 variants.
        title: The heading, or None for the model and its target.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    failures = list(report.failures)
    if not (report.passed or failures):
        failures.append("nothing was measured")
    html = environment.get_template("report.html.jinja").render(
        heading=title if title is not None else f"{report.model} for {report.target}",
        report=report,
        failures=failures,
        int8_rows=_int8_rows(int8_comparisons),
        int8_sentences=["; ".join(c.sentences()) for c in int8_comparisons],
        gate_rows=_gate_rows(report),
        case_rows=[_case_row(report, case) for case in report.cases],
        tensor_rows=_tensor_rows(report),
        swatches=SWATCHES,
        pictures=[_picture(p) for p in pictures],
    )
    # A file name that is not UTF-8 reaches Python with surrogates, which HTML cannot hold.
    return html.encode("utf-8", "replace").decode("utf-8")


def _cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(text=text) for text in texts)


def _int8_rows(int8_comparisons: Sequence[Int8Comparison]) -> list[Row]:
    rows: list[Row] = []
    for comparison in int8_comparisons:
        int8 = comparison.int8
        for variant in (int8, *comparison.baselines):
            is_int8 = variant is int8
            cells = _cells(
                variant.precision,
                f"{variant.bytes / 1e6:.2f}",
                "" if is_int8 else f"{int8.bytes / variant.bytes:.2f}",
                "-" if variant.seconds is None else f"{1e3 * variant.seconds:.0f}",
                "" if is_int8 else _share(int8.seconds, variant.seconds),
            )
            rows.append((comparison.component, cells))
    return rows


def _share(seconds: float | None, other: float | None) -> str:
    return f"{seconds / other:.2f}" if seconds and other else "-"


def _gate_rows(report: ParityReport) -> list[Row]:
    gates = report.gates
    rows: list[Row] = []
    ious = [case.min_iou for case in report.cases]
    if report.cases:
        iou = _at_least(gates.mask_iou, _worst(min, ious), _iou)
        rows.append(("Mask IoU", (Cell(text=f"≥ {gates.mask_iou}"), iou)))
        if gates.mean_iou:
            mean = _at_least(gates.mean_iou, fmean(ious), _iou)
            rows.append(("Mean of mask IoU", (Cell(text=f"≥ {gates.mean_iou}"), mean)))
        error = _at_most(gates.score_error, _worst(max, [c.score_error for c in report.cases]))
        rows.append(("Score error", (Cell(text=f"≤ {gates.score_error}"), error)))
    cosines = [tensor.cosine for comparison in report.comparisons for tensor in comparison.tensors]
    if cosines:
        cosine = _at_least(gates.cosine, _worst(min, cosines), _cosine)
        rows.append(("Cosine of any tensor", (Cell(text=f"≥ {gates.cosine}"), cosine)))
    return rows


def _case_row(report: ParityReport, case: CaseResult) -> Row:
    cells = (
        _at_least(report.gates.mask_iou, case.min_iou, _iou),
        *_cells(
            str(case.worst),
            f"{case.scores[case.worst]:.2f}" if case.scores else "-",
            f"{case.stability[case.worst]:.2f}" if case.stability else "-",
            _iou(min(case.boundary_iou[i] for i in case.user_masks)),
        ),
        _at_most(report.gates.score_error, case.score_error),
        Cell(text=_ranking(case)),
    )
    return case.case, cells


def _ranking(case: CaseResult) -> str:
    if case.artifact_best == case.best:
        return "✓"
    # Not marked as missed: within the gate on scores another mask may score best.
    return (
        f"✗ mask {case.artifact_best}, not {case.best}; gap {_number(case.score_gap)}, "
        f"IoU of the two {_iou(case.best_iou)}"
    )


def _tensor_rows(report: ParityReport) -> list[Row]:
    tensors: dict[tuple[str, str, str], list[TensorDiff]] = {}
    for comparison in report.comparisons:
        for tensor in comparison.tensors:
            key = (comparison.component, comparison.point, tensor.name)
            tensors.setdefault(key, []).append(tensor)
    return [
        (
            component,
            (
                Cell(text=POINTS[point]),
                Cell(text=name, code=True),
                Cell(text=_number(_worst(max, [d.max_abs for d in diffs]))),
                _at_least(report.gates.cosine, _worst(min, [d.cosine for d in diffs]), _cosine),
                Cell(text=_number(_worst(min, [d.sqnr_db for d in diffs]), ".1f")),
            ),
        )
        for (component, point, name), diffs in tensors.items()
    ]


# ------------------------------------------------------------------ pictures


def _picture(picture: Picture) -> PictureView:
    reference, actual = picture.reference, picture.actual
    missed = int(np.count_nonzero(reference & ~actual))
    added = int(np.count_nonzero(actual & ~reference))
    mask = "mask" if picture.mask is None else f"mask {picture.mask}"
    difference = "no pixel differs"
    if missed or added:
        difference = f"{missed:,} missed, {added:,} added, of {reference.size:,} pixels"
    height, width = reference.shape
    scale = min(1.0, PANEL_WIDTH / width, PANEL_HEIGHT / height)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    sy, sx = size[0] / height, size[1] / width
    small = Image.fromarray(picture.image).resize(size[::-1], Image.Resampling.LANCZOS)
    image = np.asarray(small)
    box = picture.box
    prompted = overlay.draw(
        image,
        overlay.shrink(reference, size),
        points=[((x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5, on) for x, y, on in picture.points],
        boxes=[] if box is None else [(box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy)],
    )
    answered = overlay.draw(image, overlay.shrink(actual, size))
    iou = _iou(mask_iou(reference, actual))
    panels = (
        _panel(prompted, "JPEG", f"Prompts and the reference's {mask}"),
        _panel(answered, "JPEG", f"The artefact's {mask}, IoU {iou}"),
        _panel(
            overlay.disagreement(image, reference, actual), "PNG", f"Disagreement: {difference}"
        ),
    )
    return PictureView(case=picture.case, panels=panels)


def _panel(image: NDArray[np.uint8], kind: str, caption: str) -> Panel:
    data = io.BytesIO()
    # Without subsampling, outlines one pixel wide keep their colour. Pillow cannot optimize a JPEG
    # of more than one byte a pixel, which noise needs.
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(image).save(data, kind, **options)
    encoded = base64.b64encode(data.getvalue()).decode()
    return Panel(source=f"data:image/{kind.lower()};base64,{encoded}", caption=caption)


# ------------------------------------------------------------------ numbers


def _at_least(gate: float, value: float, shown: Callable[[float], str]) -> Cell:
    return Cell(text=shown(value), missed=not value >= gate)


def _at_most(gate: float, value: float) -> Cell:
    return Cell(text=_number(value), missed=not value <= gate)


def _worst(pick: Callable[[Iterable[float]], float], values: Sequence[float]) -> float:
    """Return the minimum or maximum; NaN if any value is NaN, which `min` and `max` would miss."""
    return math.nan if any(math.isnan(value) for value in values) else pick(values)


def _iou(value: float) -> str:
    if not math.isfinite(value):
        return _number(value)
    # Rounded down, so that only equal masks have an IoU of 1.000000.
    return str(Decimal(str(float(value))).quantize(Decimal("1e-6"), ROUND_FLOOR))


def _cosine(value: float) -> str:
    return f"{value:.7f}" if math.isfinite(value) else _number(value)


def _number(value: float, form: str = ".3g") -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return format(value, form)
