"""A parity check as one HTML file: what was asked for, what was found, and where masks differ.

It loads nothing, runs no script and holds no time of day: the same check gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import math
from decimal import ROUND_FLOOR, Decimal
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from effsam_export import overlay
from effsam_export.parity.metrics import mask_iou

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from effsam_export.parity.results import CaseResult, ParityReport, Picture, TensorDiff
    from effsam_export.spec import Gates

SEAMS = {"onnx": "PyTorch → ONNX", "artifact": "ONNX → artefact"}
PANEL_WIDTH, PANEL_HEIGHT = 360, 480
JPEG_QUALITY = 80
GREYS = 32
NUMBER = ' class="number"'
ONLY_REFERENCE = (255, 140, 0)
ONLY_ARTEFACT = (0, 200, 255)

CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --page: #fff; --line: #d5dae0;
  --card: #f6f8fa; --good: #116329; --good-page: #dafbe1; --bad: #a40e26; --bad-page: #ffebe9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa5b1; --page: #0d1117;
  --line: #343b44; --card: #161b22; --good: #7ee787; --good-page: #12361f; --bad: #ff9a92;
  --bad-page: #4a1519; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .4rem 0; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.verdict { display: inline-block; padding: .15rem .7rem; border-radius: 1rem; font-weight: 700; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 700; }
.verdict.good { background: var(--good-page); } .verdict.bad { background: var(--bad-page); }
.failures { border-left: 4px solid var(--bad); background: var(--bad-page); margin: 1rem 0;
  padding: .6rem 1rem .6rem 2rem; border-radius: 4px; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .875rem; overflow-wrap: normal; }
th, td { padding: .4rem .75rem; text-align: left; border-top: 1px solid var(--line); }
th.case { min-width: 9rem; overflow-wrap: anywhere; }
thead th { background: var(--card); border-top: 0; }
tbody th { font-weight: 400; }
.number { text-align: right; white-space: nowrap; }
.picture { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem 1rem; margin: 0 0 1rem; }
.panels { display: grid; gap: 1rem; margin-top: .6rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
figure { margin: 0; max-width: 360px; }
img { display: block; width: 100%; height: auto; border-radius: 4px; }
figcaption { margin-top: .3rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin: 0 .35em 0 .1em; vertical-align: -.05em; border: 1px solid var(--soft); }
"""


def render(report: ParityReport, pictures: Sequence[Picture], *, title: str | None = None) -> str:
    """The whole check as one HTML document, to be written as UTF-8.

    Args:
        report: What was measured. Values that miss a gate are marked; the verdict is its own.
        pictures: What to show of some cases: image uint8 HxWx3 RGB, both masks bool HxW, points
            and box in pixels of the image.
        title: The heading, or None for the model and its target.
    """
    heading = _text(title if title is not None else f"{report.model} for {report.target}")
    sections = [_head(report, heading), _gates(report), _cases(report), _seams(report)]
    if pictures:
        sections += ["<h2>Masks</h2>", _legend(), *(_picture(p) for p in pictures)]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="'
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(report: ParityReport, heading: str) -> str:
    verdict = '<span class="verdict good">✓ PASSED</span>'
    if not report.passed:
        verdict = '<span class="verdict bad">✗ FAILED</span>'
    asked = (
        f"Model {_code(report.model)}, target {_code(report.target)}, "
        f"precision {_code(report.precision)}"
    )
    failures = list(report.failures)
    if not report.seams:
        failures.append("nothing was measured")
    items = "".join(f"<li>{_text(failure)}</li>" for failure in failures)
    listed = f'\n<ul class="failures">{items}</ul>' if items else ""
    return f"<h1>{heading}</h1>\n<p>{verdict}</p>\n<p>{asked}</p>{listed}"


def _gates(report: ParityReport) -> str:
    gates, cases = report.gates, report.cases
    tensors = [tensor for seam in report.seams for tensor in seam.tensors]
    iou = _worst(min, [case.answer_iou for case in cases])
    error = _worst(max, [case.score_error for case in cases])
    cosine = _worst(min, [tensor.cosine for tensor in tensors])
    rows = [
        _row("Mask IoU, end to end", f"≥ {gates.mask_iou}", _at_least(gates.mask_iou, iou, _iou)),
        _row("Score error, end to end", f"≤ {gates.score_error}", _at_most(gates, error)),
        _row("Cosine, any tensor", f"≥ {gates.cosine}", _at_least(gates.cosine, cosine, _cosine)),
    ]
    return _table("Gates", "", ("", "Needed", "Worst found"), rows)


def _cases(report: ParityReport) -> str:
    note = "Photograph to mask at original size; the worst of the masks a user is given."
    columns = ("Case", "Answer IoU", "Boundary IoU", "Score error", "Same winner")
    rows = []
    for case in report.cases:
        boundary = min(case.boundary_iou[i] for i in case.answers)
        rows.append(
            _row(
                case.case,
                _at_least(report.gates.mask_iou, case.answer_iou, _iou),
                _iou(boundary),
                _at_most(report.gates, case.score_error),
                _winner(case),
            )
        )
    return _table("End to end", note, columns, rows)


def _winner(case: CaseResult) -> str:
    if case.found_winner == case.winner:
        return '<span class="good">✓</span>'
    what = f"mask {case.found_winner}, not {case.winner}; gap {_number(case.winner_gap)}"
    return f'<span class="bad">✗</span> {what}'


def _seams(report: ParityReport) -> str:
    note = "The worst over all cases. The decoder is fed the reference's embedding."
    columns = ("Component", "Seam", "Tensor", "Max-abs", "Cosine", "SQNR, dB")
    found: dict[tuple[str, str, str], list[TensorDiff]] = {}
    for seam in report.seams:
        for tensor in seam.tensors:
            found.setdefault((seam.component, seam.seam, tensor.name), []).append(tensor)
    rows = []
    for (component, where, name), tensors in found.items():
        cosine = _worst(min, [t.cosine for t in tensors])
        rows.append(
            _row(
                component,
                SEAMS[where],
                _code(name),
                _number(_worst(max, [t.max_abs for t in tensors])),
                _at_least(report.gates.cosine, cosine, _cosine),
                _decibels(_worst(min, [t.sqnr_db for t in tensors])),
                texts=3,
            )
        )
    return _table("Seams", note, columns, rows, texts=3)


# ------------------------------------------------------------------ pictures


def _legend() -> str:
    swatches = (
        (ONLY_REFERENCE, "reference only"),
        (ONLY_ARTEFACT, "artefact only"),
        ((184, 184, 184), "in both"),
    )
    items = [
        f'<span class="swatch" style="background: rgb{colour}"></span>{name}'
        for colour, name in swatches
    ]
    return f'<p class="soft">Disagreement: {" &nbsp; ".join(items)}</p>'


def _picture(picture: Picture) -> str:
    reference, found = picture.reference, picture.found
    missed = int(np.count_nonzero(reference & ~found))
    added = int(np.count_nonzero(found & ~reference))
    height, width = reference.shape
    scale = min(1.0, PANEL_WIDTH / width, PANEL_HEIGHT / height)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    sy, sx = size[0] / height, size[1] / width
    image = Image.fromarray(picture.image).resize(size[::-1], Image.Resampling.LANCZOS)
    box = picture.box
    prompted = overlay.draw(
        np.asarray(image),
        _shrunk(reference, size),
        points=[((x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5, on) for x, y, on in picture.points],
        boxes=[] if box is None else [(box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy)],
    )
    answered = overlay.draw(np.asarray(image), _shrunk(found, size))
    differ = (
        f"{missed:,} reference only, {added:,} artefact only, of {height * width:,} pixels"
        if missed or added
        else "no pixel differs"
    )
    panels = (
        _figure(_jpeg(prompted), "Prompts and the reference's mask"),
        _figure(_jpeg(answered), f"The artefact's mask, IoU {_iou(mask_iou(reference, found))}"),
        _figure(_disagreement(image, reference, found), f"Disagreement: {differ}"),
    )
    return (
        f'<section class="picture"><h3>{_text(picture.case)}</h3>\n'
        f'<div class="panels">\n{"".join(panels)}</div></section>'
    )


def _figure(source: str, caption: str) -> str:
    text = _text(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>\n'


def _jpeg(image: NDArray[np.uint8]) -> str:
    data = io.BytesIO()
    # Without subsampling: outlines one pixel wide keep their colour.
    Image.fromarray(image).save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _disagreement(
    image: Image.Image, reference: NDArray[np.bool_], found: NDArray[np.bool_]
) -> str:
    """A dark grey photograph, lighter where both masks are, in a palette that keeps it small."""
    size = (image.height, image.width)
    both = _share(reference & found, size)
    missed = _share(reference & ~found, size)
    added = _share(found & ~reference, size)
    grey = np.asarray(image.convert("L")) * (0.3 + 0.45 * both)
    index = (grey * GREYS / 256).astype(np.uint8)
    # However few pixels of the photograph differ under one of the panel's, it is coloured.
    index[(missed > 0) & (missed >= added)] = GREYS
    index[added > missed] = GREYS + 1
    panel = Image.fromarray(index, "P")
    greys = [value for i in range(GREYS) for value in [i * 256 // GREYS] * 3]
    panel.putpalette([*greys, *ONLY_REFERENCE, *ONLY_ARTEFACT])
    data = io.BytesIO()
    panel.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _share(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float64]:
    """How much of each pixel of a smaller picture the mask covers: float64 of that size, 0 to 1."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape))
    sums = np.add.reduceat(mask, rows, axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, columns, axis=1)
    heights = np.diff(rows, append=mask.shape[0])
    widths = np.diff(columns, append=mask.shape[1])
    return sums / np.outer(heights, widths)


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    share = _share(mask, size)
    half = share >= 0.5
    # A mask too small to fill half a pixel anywhere must not look like no mask.
    return half if half.any() else share > 0


# ------------------------------------------------------------------ words and numbers


def _table(
    heading: str, note: str, columns: Sequence[str], rows: Sequence[str], *, texts: int = 1
) -> str:
    if not rows:
        return f'<h2>{heading}</h2>\n<p class="soft">Nothing was measured.</p>'
    said = f'\n<p class="soft">{note}</p>' if note else ""
    heads = [
        f'<th scope="col"{"" if i < texts else NUMBER}>{name}</th>'
        for i, name in enumerate(columns)
    ]
    return (
        f'<h2>{heading}</h2>{said}\n<div class="wide"><table>\n<thead><tr>{"".join(heads)}</tr>'
        f"</thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>"
    )


def _row(name: str, *cells: str, texts: int = 1) -> str:
    """One row: its name as plain text, then cells that are HTML, numbers after `texts` columns."""
    tds = [f"<td{'' if i < texts else NUMBER}>{cell}</td>" for i, cell in enumerate(cells, 1)]
    return f'<tr><th scope="row" class="case">{_text(name)}</th>{"".join(tds)}</tr>\n'


def _at_least(gate: float, value: float | None, shown: Callable[[float], str]) -> str:
    return _judged(value, shown, value is not None and value >= gate)


def _at_most(gates: Gates, value: float | None) -> str:
    return _judged(value, _number, value is not None and value <= gates.score_error)


def _judged(value: float | None, shown: Callable[[float], str], reached: bool) -> str:
    if value is None:
        return '<span class="bad">not measured</span>'
    return shown(value) if reached else f'<span class="bad">✗ {shown(value)}</span>'


def _worst(pick: Callable[[Iterable[float]], float], values: Sequence[float]) -> float | None:
    """The least or the greatest, NaN if one of them is, None if there is none."""
    if any(math.isnan(value) for value in values):
        return math.nan
    return pick(values) if values else None


def _iou(value: float) -> str:
    if not math.isfinite(value):
        return _number(value)
    # Rounded down: only equal masks are said to have an IoU of 1.000000.
    return str(Decimal(str(float(value))).quantize(Decimal("1e-6"), ROUND_FLOOR))


def _cosine(value: float) -> str:
    return f"{value:.7f}" if math.isfinite(value) else _number(value)


def _number(value: float, form: str = ".3g") -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return format(value, form)


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _text(text: str) -> str:
    # A file name that is no UTF-8 reaches Python with surrogates, which no HTML file can hold.
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
