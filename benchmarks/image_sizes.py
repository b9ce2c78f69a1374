"""MobileSAM's masks and encoder time at several sizes of its input.

`python -m benchmarks.image_sizes --checkpoint FILE [--sizes N ...] [--images TOML] [--json NAME]`:
the same weights are traced at each size and run in ONNX Runtime, in FP32. The best-scoring mask of
each prompt is compared with the best-scoring one at the first size, at the size of the image. The
encoders are timed with interleaved calls. No limits are checked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks import machine
from benchmarks.timing import figure, ratio, table
from effsam_export import models
from effsam_export.backends.onnx.backend import open_onnx
from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.graph import trace
from effsam_export.imaging.decode import load_image
from effsam_export.inference import runner
from effsam_export.models import image_sizes
from effsam_export.parity.metrics import mask_iou
from effsam_export.spec.prompts import Sample
from effsam_export.util.timing import interleave
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.own_file import checkpoint_from_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.config.parity import ParityImage
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

RESULTS = Path(__file__).parent / "results"
MODEL = "mobile-sam"
SIZES = (1024, 768, 512, 384)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one size.

    Attributes:
        mean_iou, min_iou: Of the best-scoring masks with those of the first size.
        same_mask: Share of the prompts for which the same output scores best.
        median_s, minimum_s: Time of the encoder in ONNX Runtime.
    """

    size: int
    prompts: int
    mean_iou: float
    min_iou: float
    same_mask: float
    median_s: float
    minimum_s: float


@dataclass(frozen=True, kw_only=True)
class Sized:
    """A model at one size, with its graphs in ONNX Runtime."""

    model: ModelSpec
    encoder: Session
    decoder: Session


def exported(size: int, weights: Checkpoint, folder: Path) -> Sized:
    """Trace both components at one size and open them."""
    model = image_sizes.resized(models.get(MODEL), size)
    module = loading.load(model, weights)
    opset = profiles.load_target("onnx", "fp32").opset
    sessions = {}
    for component in model.components:
        out = folder / f"{size}-{component.name}"
        out.mkdir()
        graph = trace.to_onnx(trace.trace(module, component), component, opset, out)
        sessions[component.name] = open_onnx(graph.path)
    return Sized(model=model, encoder=sessions["encoder"], decoder=sessions["decoder"])


def answers(sized: Sized, images: tuple[ParityImage, ...]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Return the index and the mask with the best score of each prompt that needs no mask."""
    found = []
    for row in images:
        embedded = runner.embed(sized.model, sized.encoder, load_image(row.path))
        for case in row.cases:
            if case.mask_from is None:
                predicted = runner.predict(sized.model, sized.decoder, embedded, case.prompt)
                found.append((predicted.indices[0], predicted.masks[0]))
    return found


def measure(
    sizes: tuple[int, ...], weights: Checkpoint, images: tuple[ParityImage, ...], repeats: int
) -> list[Row]:
    """Return the figures of each size, compared with the first one."""
    with tempfile.TemporaryDirectory() as name:
        built = {size: exported(size, weights, Path(name)) for size in sizes}
        masks = {size: answers(sized, images) for size, sized in built.items()}
        sample = Sample(image=load_image(images[0].path))
        feeds = {
            size: s.model.component("encoder").feeds(s.model.preprocess, sample)
            for size, s in built.items()
        }
        calls = {
            str(size): lambda s=sized, f=feeds[size]: s.encoder.run(f)
            for size, sized in built.items()
        }
        times = interleave(calls, repeats)
    rows = []
    for size in sizes:
        pairs = list(zip(masks[sizes[0]], masks[size], strict=True))
        ious = [mask_iou(a, b) for (_, a), (_, b) in pairs]
        rows.append(
            Row(
                size=size,
                prompts=len(pairs),
                mean_iou=mean(ious),
                min_iou=min(ious),
                same_mask=mean(i == j for (i, _), (j, _) in pairs),
                median_s=times[str(size)].median_s,
                minimum_s=times[str(size)].minimum_s,
            )
        )
    return rows


HEAD = ("size", "mean IoU", "min IoU", "same mask", "encoder ms", "of the first")


def cells(rows: list[Row]) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [
            str(r.size),
            figure(r.mean_iou, 3),
            figure(r.min_iou, 3),
            figure(r.same_mask),
            figure(1e3 * r.median_s, 0),
            figure(ratio(r.median_s, rows[0].median_s)),
        ]
        for r in rows
    ]


def main(argv: list[str] | None = None) -> None:
    """Export, compare, time, print; keep the figures if a name is given."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="MobileSAM's weights")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--images", type=Path, help="parity set [default: the one that ships]")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are counted")
    parser.add_argument("--json", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args(argv)
    weights = checkpoint_from_file(args.checkpoint, models.get(MODEL).weights)
    images = load_parity_images(args.images)
    rows = measure(tuple(args.sizes), weights, images, args.repeats)
    print(table(HEAD, cells(rows)))
    if args.json:
        document = {"machine": machine.describe(), "rows": [asdict(r) for r in rows]}
        path = RESULTS / f"{args.json}.json"
        path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
