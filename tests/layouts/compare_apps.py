"""Compare the masks of the apps' own code on the official MobileSAM with our predictor's.

`python -m tests.layouts.compare_apps FOLDER [--chromium PATH] [--rembg PYTHON]` exports MobileSAM
for `onnx` and in both layouts, and asks Transformers.js in node, the same in headless Chromium, and
rembg's session in a Python that has rembg, for the shipped prompts. A row has the IoU of an app's
mask with three masks of ours:

same pixels: our FP32 graphs on the pixels and points that the app fed (`corresponding.py`);
layout: `effsam run` on the bundle in the app's layout, with our own steps of the app;
ordinary: `effsam run` on the bundle for `onnx`.

It ends with code 1 if an IoU of the first kind is below 0.99.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import effsam_export
from effsam_export import models
from effsam_export.config.parity import load_parity_images
from effsam_export.config.targets import load_target
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline import run as pipeline
from effsam_export.pipeline.request import ExportRequest
from effsam_export.weights import fetch
from tests.layouts import real_apps
from tests.layouts.corresponding import Graphs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from effsam_export.config.parity import ParityCase, ParityImage
    from effsam_export.spec.prompts import Prompt
    from tests.layouts.real_apps import Answer

MINIMUM = 0.99
TARGETS = ("onnx", "anylabeling", "transformers-js")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The IoU of one mask of an app with ours.

    Attributes:
        prompt: `image/prompt`, and the mask's position in the set where there are several.
        without_padding: As `same_pixels`, but without the padding point that rembg adds to a box.
    """

    app: str
    prompt: str
    same_pixels: float
    layout: float
    ordinary: float
    without_padding: float | None = None


def exported(folder: Path) -> dict[str, Path]:
    """Bundles of the official MobileSAM by target; those that are there are kept."""
    spec = models.get("mobile-sam")
    assert spec.weights is not None
    checkpoint = fetch.cached(spec.weights, cache_dir=fetch.default_cache_dir())
    assert checkpoint is not None, "run `effsam fetch mobile-sam` first"
    bundles = {name: folder / f"mobile-sam-{name}" for name in TARGETS}
    for name, output in bundles.items():
        if not output.exists():
            target = load_target(name, "fp32")
            pipeline.export(
                ExportRequest(model=spec, target=target, checkpoint=checkpoint, output=output)
            )
    return bundles


def asked(image: ParityImage) -> list[ParityCase]:
    """The prompts that an app can be asked: those without a mask."""
    return [case for case in image.cases if case.mask_from is None]


def as_points(prompt: Prompt) -> dict[str, Any]:
    """A prompt for Transformers.js: the corners of a box are points."""
    points = [[p.x, p.y] for p in prompt.points]
    labels = [p.label for p in prompt.points]
    if prompt.box is not None:
        points += [list(prompt.box[:2]), list(prompt.box[2:])]
        labels += [2, 3]
    return {"input_points": [points], "input_labels": [labels]}


def as_marks(prompt: Prompt) -> list[dict[str, Any]]:
    """A prompt for rembg."""
    marks = [{"type": "point", "data": [p.x, p.y], "label": p.label} for p in prompt.points]
    if prompt.box is not None:
        marks.append({"type": "rectangle", "data": list(prompt.box), "label": 0})
    return marks


def run_masks(
    bundle: Path, image: Path, prompts: Sequence[Prompt], *, single: bool = False
) -> list[NDArray[np.bool_]]:
    """The masks of `effsam run` in the order of the set; with `single`, the one for the prompt.

    That is the best of the set for one point, and the single mask for more.
    """
    found = []
    with effsam_export.load(bundle) as predictor:
        predictor.set_image(image)
        for prompt in prompts:
            several = len(prompt.points) > 1 or prompt.box is not None
            points = [(p.x, p.y) for p in prompt.points]
            masks, scores, _ = predictor.predict(
                point_coords=points or None,
                point_labels=[p.label for p in prompt.points] or None,
                box=prompt.box,
                multimask_output=not (single and several),
            )
            found.append(masks[[int(np.argmax(scores))]] if single else masks)
    return found


def rows(
    app: str,
    image: ParityImage,
    answers: Sequence[Answer],
    ours: Sequence[Sequence[NDArray[np.bool_]]],
    without_padding: Sequence[NDArray[np.bool_]] | None = None,
) -> Iterator[Row]:
    """Compare the masks of an app with ours: of the same pixels, the layout, the `onnx` bundle.

    Of a set of masks, the one is compared that the app's scores rank first.
    """
    for i, (case, answer, *masks) in enumerate(zip(asked(image), answers, *ours, strict=True)):
        best = int(np.argmax(answer.scores)) if answer.scores else 0
        same, layout, ordinary = (mask_iou(m[best], answer.masks[best]) for m in masks)
        yield Row(
            app=app,
            prompt=f"{image.path.stem}/{case.name}",
            same_pixels=same,
            layout=layout,
            ordinary=ordinary,
            without_padding=None
            if without_padding is None
            else mask_iou(without_padding[i][0], answer.masks[0]),
        )


def compared(folder: Path, chromium: str | None, rembg: str | None) -> Iterator[Row]:
    """The rows of every app that can be run."""
    bundles = exported(folder)
    graphs = Graphs(bundles["onnx"])
    library = folder / "npm"
    fault = real_apps.install_transformers_js(library, browser=chromium is not None)
    assert fault is None, fault
    for image in load_parity_images():
        prompts = [case.prompt for case in asked(image)]
        ordinary = run_masks(bundles["onnx"], image.path, prompts)
        layout = run_masks(bundles["transformers-js"], image.path, prompts)
        questions = [as_points(p) for p in prompts]
        browsers: dict[str, str | None] = {"Transformers.js, node": None}
        if chromium is not None:
            browsers["Transformers.js, Chromium"] = chromium
        for app, browser in browsers.items():
            answers = real_apps.transformers_js(
                library, bundles["transformers-js"], image.path, questions, chromium=browser
            )
            same = [graphs.of_transformers_js(a) for a in answers]
            yield from rows(app, image, answers, (same, layout, ordinary))
        if rembg is not None:
            bundle = bundles["anylabeling"]
            marks = [as_marks(p) for p in prompts]
            answers = real_apps.rembg(rembg, folder / "rembg", bundle, image.path, marks)
            ours = (
                [graphs.of_rembg(a) for a in answers],
                run_masks(bundle, image.path, prompts),
                run_masks(bundles["onnx"], image.path, prompts, single=True),
            )
            unpadded = [graphs.of_rembg(a, padding=False) for a in answers]
            yield from rows("rembg", image, answers, ours, unpadded)


def main() -> int:
    """Print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chromium", help="path of a browser")
    parser.add_argument("--rembg", help="path of a Python that has rembg")
    parser.add_argument("--json", type=Path, help="file for the rows")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    print("app | prompt | same pixels | layout | ordinary | without padding")
    for row in compared(folder, given.chromium, given.rembg):
        found.append(row)
        numbers = (row.same_pixels, row.layout, row.ordinary, row.without_padding)
        shown = ("-" if n is None else f"{n:.4f}" for n in numbers)
        print(" | ".join([row.app, row.prompt, *shown]), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in found], indent=2), "utf-8")
    return int(min(row.same_pixels for row in found) < MINIMUM)


if __name__ == "__main__":
    sys.exit(main())
