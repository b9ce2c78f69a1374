"""INT8 of MobileSAM: accuracy by samples, methods and overrides; latency and size.

`python -m benchmarks.int8 curve|latency --checkpoint FILE [--parity FILE]`. `curve`
evaluates quantized ONNX graphs in ONNX Runtime. `latency` times the encoder in INT8, FP16 and FP32
on each runtime, with interleaved calls. Both print Markdown tables and check no limits.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.timing import figure, ratio, table
from effsam_export import backends, models
from effsam_export.bisect.int8 import Int8Evaluator
from effsam_export.calibration import images as calibration_images
from effsam_export.calibration.samples import Calibration
from effsam_export.config import calibration, int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.graph import passes, trace
from effsam_export.imaging.decode import load_image
from effsam_export.pipeline import isolate
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.quantize import prepare
from effsam_export.spec.int8 import Int8Recipe, Quantization
from effsam_export.spec.prompts import Sample
from effsam_export.util.progress import ignore_event
from effsam_export.util.timing import interleave
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import own_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.export import ExportedProgram

    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.tensors import Feeds

MODEL = "mobile-sam"
TARGETS = ("onnx", "openvino", "tflite")
PRECISIONS = ("fp32", "fp16", "int8")


def variants() -> dict[str, tuple[int, Int8Recipe]]:
    """Return name -> number of samples and the encoder's recipe."""
    best = int8_recipe.load(MODEL).recipe("encoder", "onnx")
    bare = replace(best, overrides=())
    found = {f"recipe, {n} samples": (n, best) for n in (5, 12, 20, 40)}
    found["recipe, nearest rounding"] = (20, replace(best, rounding="nearest"))
    found["recipe, no equalization"] = (20, replace(best, equalize=()))
    plain = replace(best, rounding="nearest", equalize=())
    found["recipe, neither"] = (20, plain)
    found["recipe, weight-only"] = (20, replace(best, scheme="weight_only"))
    for method in ("percentile", "mse"):
        found[f"recipe, {method}"] = (20, replace(best, method=method))
    found["no overrides"] = (20, bare)
    found["no overrides, neither"] = (20, replace(plain, overrides=()))
    for i, entry in enumerate(best.overrides):
        others = tuple(e for j, e in enumerate(best.overrides) if j != i)
        name = f"recipe without {', '.join(entry.modules)} ({entry.treatment})"
        found[name] = (20, replace(best, overrides=others))
    return found


def curve(checkpoint: Checkpoint, parity: Path | None, only: str = "") -> str:
    """Return the mask IoU of every variant whose name contains `only`."""
    rows = []
    for name, (count, recipe) in variants().items():
        if only not in name:
            continue
        plan = int8_recipe.Int8Plan(name="x", measured="", recipes={("encoder", "default"): recipe})
        request = ExportRequest(
            model=models.get(MODEL),
            target=profiles.load_target("onnx", "int8"),
            checkpoint=checkpoint,
            output=Path("unused"),
            parity_file=parity,
            int8=Int8Request(calibration=calibration.load(num_samples=count), plan=plan),
        )
        with tempfile.TemporaryDirectory() as folder:
            found = Int8Evaluator(resolve(request), Path(folder), ignore_event).evaluate({})
        rows.append(
            [name, figure(found.mean_iou, 4), figure(found.min_iou, 4), str(found.ranking_changes)]
        )
        print("|", " | ".join(rows[-1]), "|", flush=True)
    return table(("variant", "mean IoU", "min IoU", "ranking changes"), rows)


def latency(checkpoint: Checkpoint, repeats: int) -> str:
    """Return latency and size of the encoder by precision, as shares of FP32 on each runtime."""
    spec = models.get(MODEL)
    module = loading.load(spec, checkpoint)
    component = spec.component("encoder")
    image = load_image(load_parity_images()[0].path)
    feeds = component.feeds(spec.preprocess, Sample(image=image))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = calibration_images.load(calibration.load())
        made = Calibration(images=found, folder=folder, threads=torch.get_num_threads())
        samples = made.samples(spec, component)
        plain = trace.trace(module, component)
        rounded: dict[Int8Recipe, ExportedProgram] = {}
        for target_name in TARGETS:
            calls: dict[str, Callable[[], Feeds]] = {}
            sizes = {}
            for precision in PRECISIONS:
                target = profiles.load_target(target_name, precision)
                out = folder / f"{target_name}-{precision}"
                out.mkdir()
                recipe = int8_recipe.load(MODEL).recipe("encoder", target.backend)
                quantization = Quantization(recipe=recipe, samples=samples)
                program = plain
                if precision == "int8":
                    if recipe not in rounded:
                        ready = prepare.prepare_component(component, module, quantization)
                        rounded[recipe] = trace.trace(module, ready)
                    program = rounded[recipe]
                graph = trace.to_onnx(program, component, target.opset, out)
                graph = replace(graph, quantization=quantization if precision == "int8" else None)
                graph = passes.rewrite(graph, target, out)
                graph = replace(graph, program=trace.save(program, out / "program.pt2"))
                lowered = out / "lowered"
                lowered.mkdir()
                artifact = isolate.lower(graph, target, lowered, out / "log")
                session = backends.load(target.backend).open_session(artifact)
                sizes[precision] = float(sum(f.stat().st_size for f in artifact.files))
                calls[precision] = partial(session.run, feeds)
            taken = interleave(calls, repeats)
            rows += [
                [
                    f"{target_name}, {p}",
                    figure(1e3 * taken[p].median_s, 0),
                    figure(ratio(taken[p].median_s, taken["fp32"].median_s)),
                    figure(ratio(taken[p].minimum_s, taken["fp32"].minimum_s)),
                    figure(sizes[p] / 1e6, 2),
                    figure(ratio(sizes[p], sizes["fp32"]), 3),
                ]
                for p in PRECISIONS
            ]
    return table(("encoder", "ms", "median /", "min /", "MB", "size /"), rows)


def main(argv: list[str] | None = None) -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=("curve", "latency"))
    parser.add_argument("--checkpoint", type=Path, required=True, help="MobileSAM's weights")
    parser.add_argument(
        "--parity", type=Path, help="TOML file with other evaluation images and prompts"
    )
    parser.add_argument("--only", default="", help="variants with this in their name")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are counted")
    args = parser.parse_args(argv)
    checkpoint = own_file.checkpoint_from_file(args.checkpoint, models.get(MODEL).weights)
    if args.what == "curve":
        print(curve(checkpoint, args.parity, args.only))
    else:
        print(latency(checkpoint, args.repeats))


if __name__ == "__main__":
    main()
