"""Compare our TFLite, OpenVINO and ONNX Runtime artefacts with each toolchain's default conversion.

`python -m benchmarks.defaults --checkpoint FILE [--repeats N] [--json NAME]`: the same MobileSAM
weights are converted by each toolchain's defaults from the authors' forward pass
(`benchmarks/plain.py`) and by us, and timed with interleaved calls on one image and one point.
Ratios are ours to theirs: below 1 is faster, smaller or closer to PyTorch. No limits are checked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks import machine, plain
from benchmarks.timing import figure, ratio, table
from effsam_export import backends, models
from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.graph import passes, trace
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import frame_of, prompt_to_model
from effsam_export.models import fixed
from effsam_export.models.sam.components import as_sam
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline import isolate
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.util.timing import interleave
from effsam_export.weights import checkpoint, own_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Artifact
    from effsam_export.spec.tensors import Array, Feeds

RESULTS = Path(__file__).parent / "results"
MODEL = "mobile-sam"
CLICK = (280.0, 140.0)
"""A point on the coffee of the first evaluation image, in its pixels."""
OURS: dict[str, tuple[str, str, str]] = {
    # contender -> runtime, target, precision
    "onnx fp32": ("onnx", "onnx", "fp32"),
    "openvino fp32": ("openvino", "openvino", "fp32"),
    "openvino fp16": ("openvino", "openvino", "fp16"),
    "tflite fp32": ("tflite", "tflite", "fp32"),
    "tflite fp16": ("tflite", "tflite", "fp16"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender on one component.

    Attributes:
        kind: `plain` for a toolchain's default conversion, `ours` otherwise.
        bytes: Size of all files that the runtime opens.
        max_abs: Largest difference from eager PyTorch: of the embedding, or of the logits.
        iou: Minimum IoU of the decoder's masks with PyTorch's, at 256x256; None for the encoder.
        problem: Why there is no file.
    """

    component: str
    runtime: str
    name: str
    kind: str
    bytes: int = 0
    median_s: float | None = None
    minimum_s: float | None = None
    max_abs: float | None = None
    iou: float | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One component to time: its inputs, and PyTorch's first output."""

    component: str
    inputs: plain.Inputs
    sample: Sample
    expected: Array


def prepare(spec: ModelSpec, sam: Sam) -> list[Work]:
    """Return the image for the encoder, and its embedding and a point for the decoder."""
    image = load_image(load_parity_images()[0].path)
    sample = Sample(image=image)
    pixels = spec.component("encoder").feeds(spec.preprocess, sample)["image"]
    embedded = spec.component("encoder").reference(sam, sample)["image_embeddings"]
    frame = frame_of((image.shape[0], image.shape[1]), spec.preprocess)
    click = Prompt(points=(Point(x=CLICK[0], y=CLICK[1]),))
    prompted = replace(sample, embeddings=embedded, prompt=prompt_to_model(click, frame))
    assert prompted.prompt is not None
    (point,) = prompted.prompt.points
    masks = spec.component("decoder").reference(sam, prompted)["low_res_masks"]
    coords = torch.tensor([[[point.x, point.y]]], dtype=torch.float32)
    decoder = (torch.from_numpy(embedded), coords, torch.ones(1, 1))
    return [
        Work(
            component="encoder",
            inputs=(torch.from_numpy(pixels),),
            sample=sample,
            expected=embedded,
        ),
        Work(component="decoder", inputs=decoder, sample=prompted, expected=masks),
    ]


def theirs(work: Work, sam: Sam, folder: Path) -> dict[str, tuple[Row, Callable[[], Array] | None]]:
    """The default conversions of one component, opened."""
    module = plain.PlainEncoder(sam) if work.component == "encoder" else plain.PlainDecoder(sam)
    found: dict[str, tuple[Row, Callable[[], Array] | None]] = {}
    for runtime in plain.CONVERTERS:
        row = Row(component=work.component, runtime=runtime, name=f"{runtime} plain", kind="plain")
        made = plain.convert(runtime, module, work.inputs, folder / f"{work.component}-{runtime}")
        if isinstance(made, str):
            found[row.name] = (replace(row, problem=made), None)
            continue
        found[row.name] = (
            replace(row, bytes=plain.size_of(made)),
            first_output(plain.open_file(runtime, made), list(work.inputs)),
        )
    return found


def first_output(
    run: Callable[[list[Tensor]], list[Tensor]], inputs: list[Tensor]
) -> Callable[[], Array]:
    """Return a call that returns the first output."""
    return lambda: run(inputs)[0].numpy()


def ours(
    work: Work, spec: ModelSpec, sam: Sam, folder: Path
) -> dict[str, tuple[Row, Callable[[], Array] | None]]:
    """Our artefacts of one component, opened as the backends open them."""
    found: dict[str, tuple[Row, Callable[[], Array] | None]] = {}
    for name, (runtime, target_name, precision) in OURS.items():
        target = profiles.load_target(target_name, precision)
        component = fixed.for_options(spec, target.options).component(work.component)
        out = folder / name.replace(" ", "-") / work.component
        out.mkdir(parents=True)
        graph = trace.to_onnx(program := trace.trace(sam, component), component, target.opset, out)
        graph = replace(passes.rewrite(graph, target, out), program=out / "program.pt2")
        assert graph.program is not None
        trace.save(program, graph.program)
        lowered = out / "lowered"
        lowered.mkdir()
        artifact = isolate.lower(graph, target, lowered, out / "log")
        row = Row(component=work.component, runtime=runtime, name=name, kind="ours")
        feeds = component.feeds(spec.preprocess, work.sample)
        found[name] = (
            replace(row, bytes=sum(f.stat().st_size for f in artifact.files)),
            named_output(opened(artifact), feeds, component),
        )
    return found


def opened(artifact: Artifact) -> Callable[[Feeds], Feeds]:
    """An artefact of ours as the plain one of its runtime is opened.

    Our own ONNX Runtime sessions go without the memory arena, which costs 12 % of the time here:
    12 GB of attention maps would stay in it. It says nothing about the file.
    """
    if artifact.backend != "onnx":
        return backends.load(artifact.backend).open_session(artifact).run
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(artifact.files[0]), providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


def named_output(
    run: Callable[[Feeds], Feeds], feeds: Feeds, component: ComponentSpec
) -> Callable[[], Array]:
    """Return a call that returns the first output of the contract."""
    return lambda: run(feeds)[component.outputs[0].name]


def measure(work: Work, contenders: dict[str, tuple[Row, Any]], repeats: int) -> list[Row]:
    """Time all contenders of a component in turn, and hold them to PyTorch's answer."""
    calls = {name: call for name, (_, call) in contenders.items() if call is not None}
    taken = interleave(calls, repeats)
    rows = []
    for name, (row, call) in contenders.items():
        if call is None:
            rows.append(row)
            continue
        answer = call()
        rows.append(
            replace(
                row,
                median_s=taken[name].median_s,
                minimum_s=taken[name].minimum_s,
                max_abs=float(np.abs(answer - work.expected).max()),
                iou=None if work.component == "encoder" else min_iou(answer, work.expected),
            )
        )
    return rows


def min_iou(found: Array, wanted: Array) -> float:
    """Return the minimum IoU of the masks of logits 1xKxHxW."""
    pairs = zip(found[0] > 0, wanted[0] > 0, strict=True)
    return min(mask_iou(a, b) for a, b in pairs)


def ratios(rows: list[Row]) -> list[list[str]]:
    """Cells of the table: each contender, ours as multiples of the plain one in its runtime."""
    cells = []
    for r in rows:
        base = next(
            b for b in rows if (b.component, b.runtime, b.kind) == (r.component, r.runtime, "plain")
        )
        compared = [
            None if mine is None else ratio(mine, other)
            for mine, other in (
                (r.median_s, base.median_s),
                (r.minimum_s, base.minimum_s),
                (float(r.bytes), float(base.bytes)),
            )
        ]
        if r.kind == "plain":
            compared = [None] * 3
        error = "-" if r.max_abs is None else f"{r.max_abs:.1e}"
        cells.append(
            [
                f"{r.component}, {r.name}",
                figure(None if r.median_s is None else 1e3 * r.median_s, 1),
                *(figure(c) for c in compared),
                error,
                figure(r.iou, 4),
                r.problem,
            ]
        )
    return cells


HEAD = ("contender", "ms", "median /", "min /", "size /", "max-abs", "IoU", "")


def main(argv: list[str] | None = None) -> None:
    """Convert, time, print; keep the figures if a name is given."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="MobileSAM's weights")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are counted")
    parser.add_argument("--json", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args(argv)
    spec = models.get(MODEL)
    sam = as_sam(
        checkpoint.load(spec, own_file.checkpoint_from_file(args.checkpoint, spec.weights))
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for work in prepare(spec, sam):
            contenders = {**theirs(work, sam, Path(name)), **ours(work, spec, sam, Path(name))}
            rows += measure(work, contenders, args.repeats)
    print(table(HEAD, ratios(rows)))
    if args.json:
        document = {"machine": machine.describe(), "rows": [asdict(r) for r in rows]}
        path = RESULTS / f"{args.json}.json"
        path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
