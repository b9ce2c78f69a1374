"""A parity check as one HTML file: what was asked for, what was found, and where masks differ.

It loads nothing, runs no script and holds no time of day: the same check gives the same bytes, but
for an INT8 export on a machine that runs it, whose times are in it.
"""

from __future__ import annotations

import base64
import io
import math
from decimal import ROUND_FLOOR, Decimal
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from effsam_export.imaging import overlay
from effsam_export.parity.metrics import mask_iou

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from effsam_export.parity.results import CaseResult, ParityReport, Picture, TensorDiff
    from effsam_export.pipeline.int8_comparison import Int8Comparison

POINTS = {"onnx": "PyTorch → ONNX", "artifact": "ONNX → artefact"}
PANEL_WIDTH, PANEL_HEIGHT = 360, 480
JPEG_QUALITY = 80
IN_BOTH = (160, 160, 160)
NUMBER = ' class="number"'

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
.bad { color: var(--bad); font-weight: 700; }
.verdict.good { color: var(--good); background: var(--good-page); }
.verdict.bad { background: var(--bad-page); }
.failures { border-left: 4px solid var(--bad); background: var(--bad-page); margin: 1rem 0;
  padding: .6rem 1rem .6rem 2rem; border-radius: 4px; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: .875rem; overflow-wrap: normal; }
th, td { padding: .4rem .75rem; text-align: left; white-space: nowrap;
  border-top: 1px solid var(--line); }
th.case { min-width: 9rem; overflow-wrap: anywhere; white-space: normal; }
thead th { background: var(--card); border-top: 0; }
tbody th { font-weight: 400; }
.number { text-align: right; }
.picture { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem 1rem; margin: 0 0 1rem; }
.panels { display: grid; gap: 1rem; margin-top: .6rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
figure { margin: 0; max-width: 360px; }
img { display: block; width: 100%; height: auto; border-radius: 4px; }
figcaption { margin-top: .3rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin: 0 .35em 0 .6em; vertical-align: -.05em; border: 1px solid var(--soft); }
"""


def render(
    report: ParityReport,
    pictures: Sequence[Picture],
    int8_comparisons: Sequence[Int8Comparison] = (),
    *,
    title: str | None = None,
) -> str:
    """The whole check as one HTML document, to be written as UTF-8.

    Args:
        report: What was measured. Values that miss a gate are marked; the verdict is its own.
        pictures: What to show of some cases: image uint8 HxWx3 RGB, both masks bool HxW, points
            and box in pixels of the image.
        int8_comparisons: Of an INT8 export, what it is beside its floating forms.
        title: The heading, or None for the model and its target.
    """
    heading = _text(title if title is not None else f"{report.model} for {report.target}")
    sections = [_head(report, heading), _gates(report), _cases(report), _comparisons(report)]
    if int8_comparisons:
        sections.insert(1, _int8(int8_comparisons))
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
    kind, verdict = ("good", "✓ PASSED") if report.passed else ("bad", "✗ FAILED")
    asked = (
        f"Model {_code(report.model)}, target {_code(report.target)}, "
        f"precision {_code(report.precision)}"
    )
    failures = list(report.failures)
    if not (report.passed or failures):
        failures.append("nothing was measured")
    stamp = f'<p class="verdict {kind}">{verdict}</p>'
    items = "".join(f"<li>{_text(failure)}</li>" for failure in failures)
    listed = f'\n<ul class="failures">{items}</ul>' if items else ""
    return f"<h1>{heading}</h1>\n{stamp}\n<p>{asked}</p>{_ran(report)}{listed}"


def _ran(report: ParityReport) -> str:
    """What ran, where it was not the runtime that ships, and which prompts were not asked."""
    found = ""
    if report.simulator:
        found += (
            f"\n<p><strong>Simulated</strong> by {_text(report.simulator)}: the target's own "
            "runtime does not run on this machine.</p>"
        )
    if report.left_out:
        items = "".join(f"<li>{_text(entry)}</li>" for entry in report.left_out)
        found += f"\n<p>Prompts this model cannot honour:</p>\n<ul>{items}</ul>"
    return found


def _int8(int8_comparisons: Sequence[Int8Comparison]) -> str:
    columns = ("Component", "Precision", "Size, MB", "INT8 to this", "Call, ms", "INT8 to this")
    rows, said = [], []
    for comparison in int8_comparisons:
        said += [f"<p>{_text('; '.join(comparison.sentences()))}.</p>"]
        for form in (comparison.int8, *comparison.baselines):
            mine = form is comparison.int8
            cells = (
                _text(form.precision),
                f"{form.bytes / 1e6:.2f}",
                "" if mine else f"{comparison.int8.bytes / form.bytes:.2f}",
                "-" if form.seconds is None else f"{1e3 * form.seconds:.0f}",
                "" if mine else _share(comparison.int8.seconds, form.seconds),
            )
            rows.append(_row(comparison.component, *cells, texts=2))
    note = "On the machine that exported, calls in turn, in the runtime that ships."
    return (
        _table("INT8 compared with FP16 and FP32", note, columns, rows, texts=2)
        + "\n"
        + "\n".join(said)
    )


def _share(seconds: float | None, other: float | None) -> str:
    return f"{seconds / other:.2f}" if seconds and other else "-"


def _gates(report: ParityReport) -> str:
    gates, rows = report.gates, []
    ious = [case.min_iou for case in report.cases]
    errors = [case.score_error for case in report.cases]
    cosines = [tensor.cosine for comparison in report.comparisons for tensor in comparison.tensors]
    if report.cases:
        iou, error = _worst(min, ious), _worst(max, errors)
        rows = [
            _row("Mask IoU", f"≥ {gates.mask_iou}", _at_least(gates.mask_iou, iou, _iou)),
            _row("Score error", f"≤ {gates.score_error}", _at_most(gates.score_error, error)),
        ]
        if gates.mean_iou:
            mean = _at_least(gates.mean_iou, fmean(ious), _iou)
            rows.insert(1, _row("Mean of mask IoU", f"≥ {gates.mean_iou}", mean))
    if cosines:
        cosine = _at_least(gates.cosine, _worst(min, cosines), _cosine)
        rows.append(_row("Cosine of any tensor", f"≥ {gates.cosine}", cosine))
    return _table("Gates", "", ("Gate", "Needed", "Found"), rows)


def _cases(report: ParityReport) -> str:
    note = (
        "Photograph to mask at original size: the worst of the masks a user is given, which it is, "
        "and what PyTorch thinks of it. Stability is its area at a logit of 1 as a share of that "
        "at -1: where it is low, last digits move the mask."
    )
    answer = ("Answer IoU", "Of mask", "PyTorch's score", "Stability", "Boundary IoU")
    columns = ("Case", *answer, "Score error", "Same winner")
    rows = []
    for case in report.cases:
        cells = (
            _at_least(report.gates.mask_iou, case.min_iou, _iou),
            str(case.worst),
            f"{case.scores[case.worst]:.2f}" if case.scores else "-",
            f"{case.stability[case.worst]:.2f}" if case.stability else "-",
            _iou(min(case.boundary_iou[i] for i in case.user_masks)),
            _at_most(report.gates.score_error, case.score_error),
            _winner(case),
        )
        rows.append(_row(case.case, *cells))
    return _table("End to end", note, columns, rows)


def _winner(case: CaseResult) -> str:
    if case.artifact_best == case.best:
        return "✓"
    # In no colour: a gap within the gate on scores lets another mask win, and that is no failure.
    return (
        f"✗ mask {case.artifact_best}, not {case.best}; gap {_number(case.score_gap)}, "
        f"IoU of the two {_iou(case.best_iou)}"
    )


def _comparisons(report: ParityReport) -> str:
    note = "The worst over all cases. The decoder is fed the reference's embedding."
    columns = ("Component", "Seam", "Tensor", "Max-abs", "Cosine", "SQNR, dB")
    found: dict[tuple[str, str, str], list[TensorDiff]] = {}
    for comparison in report.comparisons:
        for tensor in comparison.tensors:
            found.setdefault((comparison.component, comparison.point, tensor.name), []).append(
                tensor
            )
    rows = []
    for (component, where, name), tensors in found.items():
        cells = (
            POINTS[where],
            _code(name),
            _number(_worst(max, [t.max_abs for t in tensors])),
            _at_least(report.gates.cosine, _worst(min, [t.cosine for t in tensors]), _cosine),
            _number(_worst(min, [t.sqnr_db for t in tensors]), ".1f"),
        )
        rows.append(_row(component, *cells, texts=3))
    return _table("Seams", note, columns, rows, texts=3)


# ------------------------------------------------------------------ pictures


def _legend() -> str:
    swatches = (
        (overlay.ONLY_REFERENCE, "missed: reference only"),
        (overlay.ONLY_ARTIFACT, "added: artefact only"),
        (IN_BOTH, "in both"),
    )
    items = [
        f'<span class="swatch" style="background: rgb{colour}"></span>{name}'
        for colour, name in swatches
    ]
    return f'<p class="soft">Disagreement: {" ".join(items)}</p>'


def _picture(picture: Picture) -> str:
    reference, found = picture.reference, picture.actual
    missed = int(np.count_nonzero(reference & ~found))
    added = int(np.count_nonzero(found & ~reference))
    which = "mask" if picture.mask is None else f"mask {picture.mask}"
    differ = "no pixel differs"
    if missed or added:
        differ = f"{missed:,} missed, {added:,} added, of {reference.size:,} pixels"
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
    answered = overlay.draw(image, overlay.shrink(found, size))
    apart = overlay.disagreement(image, reference, found)
    return (
        f'<section class="picture"><h3>{_text(picture.case)}</h3>\n<div class="panels">\n'
        + _figure(prompted, "JPEG", f"Prompts and the reference's {which}")
        + _figure(
            answered, "JPEG", f"The artefact's {which}, IoU {_iou(mask_iou(reference, found))}"
        )
        + _figure(apart, "PNG", f"Disagreement: {differ}")
        + "</div></section>"
    )


def _figure(image: NDArray[np.uint8], kind: str, caption: str) -> str:
    source, text = _encoded(image, kind), _text(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>\n'


def _encoded(image: NDArray[np.uint8], kind: str) -> str:
    data = io.BytesIO()
    # Without subsampling: outlines one pixel wide keep their colour. A PNG takes no heed of these.
    Image.fromarray(image).save(data, kind, quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"


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


def _at_least(gate: float, value: float, shown: Callable[[float], str]) -> str:
    return shown(value) if value >= gate else _missed(shown(value))


def _at_most(gate: float, value: float) -> str:
    return _number(value) if value <= gate else _missed(_number(value))


def _missed(text: str) -> str:
    return f'<span class="bad">✗ {text}</span>'


def _worst(pick: Callable[[Iterable[float]], float], values: Sequence[float]) -> float:
    """The least or the greatest; NaN if any value is, which neither would find."""
    return math.nan if any(math.isnan(value) for value in values) else pick(values)


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
        return "∞" if value > 0 else "-∞"
    return format(value, form)


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _text(text: str) -> str:
    # A file name that is no UTF-8 reaches Python with surrogates, which no HTML file can hold.
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
