"""How fast our exports are beside each toolchain's plain conversion, in one interleaved run.

`python -m benchmarks.speed [MODEL ...] [--runtime NAME ...] [--precision NAME ...] [--everything]
[--repeats N] [--output DIR] [--json NAME]`

Each model is converted by each toolchain with its defaults from the authors' forward pass, as
samexporter does it, and by us; then all of them take turns. `--json NAME` writes `NAME.json`,
`NAME.md` and `NAME.svg` into `benchmarks/results`. No limits are checked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import golden_checkpoints, machine, speed_contenders, speed_peak, speed_report
from benchmarks.speed_contenders import PRECISIONS, RUNTIMES, Contender, UpstreamSession
from effsam_export import models
from effsam_export.config.parity import load_parity_images
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import prompt_to_model
from effsam_export.inference import automatic_masks, runner
from effsam_export.models.costs import COSTS
from effsam_export.models.sam.components import as_sam
from effsam_export.parity.metrics import mask_iou
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.util.timing import WARM_UP, interleave
from effsam_export.weights import checkpoint, fetch, own_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from effsam_export.inference.runner import Embedded
    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.tensors import Feeds

MODELS = (
    "mobile-sam",
    "edge-sam",
    "repvit-sam",
    "efficientvit-sam-l0",
    "slim-sam-77",
    "sam-vit-b",
)
RESULTS = Path(__file__).parent / "results"
PROMPTS = (1, 8, 64)
"""Numbers of prompts of the decoder's tasks: 64 is what a call of automatic masks has."""
SIDE = 8
"""The 64 prompts are the points of a grid of 8x8."""
REPEATS = 9
EVERYTHING = "automatic masks, 1024 prompts"
FIRST_MASK = "first mask"
BELIEVED = 0.8
"""Prompts count for the IoU if PyTorch's best mask has this score, or all if none has."""
COMPARED = 8
"""Prompts whose masks are compared with PyTorch's, spread over the grid."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender in one task.

    Attributes:
        median_s, minimum_s: Time of the task; None without a file.
        mean_iou, min_iou: Of the contender's masks, encoder and decoder together, with PyTorch's;
            None without an encoder.
        masks: Number of automatic masks; None for another task.
        gflops: Speed of the encoder or of one of the two peaks; None for another task.
    """

    model: str
    task: str
    kind: str
    runtime: str
    precision: str
    bytes: int = 0
    median_s: float | None = None
    minimum_s: float | None = None
    mean_iou: float | None = None
    min_iou: float | None = None
    masks: int | None = None
    gflops: float | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model with the image, the prompts, and PyTorch's masks for some of these."""

    spec: ModelSpec
    sam: Sam
    image: NDArray[np.uint8]
    prompts: tuple[Prompt, ...]
    expected: dict[int, NDArray[np.bool_]]
    """Number of a prompt -> PyTorch's best mask, at low resolution."""
    best: dict[int, int]


def prepare(spec: ModelSpec, sam: Sam) -> Work:
    """Return the first evaluation image with a grid of points, and PyTorch's masks."""
    image = load_image(load_parity_images()[0].path)
    points = automatic_masks.grid((image.shape[0], image.shape[1]), SIDE)
    prompts = tuple(Prompt(points=(Point(x=x, y=y),)) for x, y in points)
    embedded = runner.embed(spec, Reference(spec, sam), image)
    asked = [i * len(prompts) // COMPARED + i for i in range(COMPARED)]
    expected, best, scores = {}, {}, {}
    for i in asked:
        outputs = reference_outputs(spec, sam, embedded, prompts[i])
        order = sorted(spec.masks.multimask, key=lambda k: -float(outputs[spec.masks.score][0, k]))
        best[i], scores[i] = order[0], float(outputs[spec.masks.score][0, order[0]])
        expected[i] = outputs["low_res_masks"][0, order[0]] > spec.masks.threshold
    believed = [i for i in asked if scores[i] >= BELIEVED] or asked
    return Work(
        spec=spec,
        sam=sam,
        image=image,
        prompts=prompts,
        expected={i: expected[i] for i in believed},
        best=best,
    )


def reference_outputs(spec: ModelSpec, sam: Sam, embedded: Embedded, prompt: Prompt) -> Feeds:
    """Return the outputs of PyTorch's decoder for a prompt."""
    sample = replace(embedded.sample, prompt=prompt_to_model(prompt, embedded.frame))
    return spec.component("decoder").reference(sam, sample)


class Reference:
    """PyTorch's encoder as a session: the authors' own code."""

    def __init__(self, spec: ModelSpec, sam: Sam) -> None:
        self._spec, self._sam = spec, sam

    def run(self, feeds: Feeds) -> Feeds:
        """Encode an image in the model's frame."""
        import torch

        with torch.inference_mode():
            embedding = self._sam.encode(torch.from_numpy(feeds["image"]))
        return {"image_embeddings": embedding.numpy()}


def decoder_calls(
    contender: Contender, embedded: Embedded, prompts: tuple[Prompt, ...]
) -> list[Feeds]:
    """Return the decoder's inputs for prompts: for one call, or for one of each prompt."""
    feeds = [runner.decoder_feeds(contender.model, embedded, p) for p in prompts]
    return [automatic_masks.stacked(contender.model, feeds)] if contender.batches else feeds


def decode(contender: Contender, calls: list[Feeds]) -> list[Feeds]:
    """Return the decoder's outputs for each of its calls."""
    assert contender.decoder is not None
    return [contender.decoder.run(feeds) for feeds in calls]


def first_mask(contender: Contender, image: NDArray[np.uint8], prompt: Prompt) -> Any:  # noqa: ANN401
    """Return the best mask of one prompt at original size, from the pixels of an image."""
    assert contender.encoder is not None
    assert contender.decoder is not None
    embedded = runner.embed(contender.model, contender.encoder, image)
    if not isinstance(contender.decoder, UpstreamSession):
        return runner.predict(
            contender.model, contender.decoder, embedded, prompt, only_best=True
        ).masks
    # Its graph resizes all masks itself.
    feeds = runner.decoder_feeds(contender.model, embedded, prompt)
    found = contender.decoder.resized(feeds, embedded.frame.original)
    masks = contender.model.masks
    best = max(masks.multimask, key=lambda k: float(found[masks.score][0, k]))
    return found["masks"][0, best] > masks.threshold


def everything(contender: Contender, embedded: Embedded) -> int:
    """Return the number of automatic masks of a grid of 32x32 points."""
    assert contender.decoder is not None
    settings = automatic_masks.GridSettings()
    model = contender.model
    return len(automatic_masks.generate(model, contender.decoder, embedded, settings))


def agreement(contender: Contender, work: Work) -> tuple[float, float]:
    """Return the mean and minimum IoU of a contender's masks with PyTorch's.

    An encoder without a decoder is followed by PyTorch's.
    """
    assert contender.encoder is not None
    embedded = runner.embed(contender.model, contender.encoder, work.image)
    ious = []
    for i, wanted in work.expected.items():
        if contender.decoder is None:
            outputs = reference_outputs(work.spec, work.sam, embedded, work.prompts[i])
        else:
            (outputs,) = decode(contender, decoder_calls(contender, embedded, (work.prompts[i],)))
        found = outputs["low_res_masks"][0, work.best[i]] > work.spec.masks.threshold
        ious.append(mask_iou(found, wanted))
    return float(np.mean(ious)), min(ious)


def tasks(
    contenders: list[Contender], work: Work, *, with_everything: bool
) -> dict[str, dict[str, Callable[[], object]]]:
    """Return task -> name of a contender -> the call to time."""
    encoded = {}
    feeds = work.spec.component("encoder").feeds(work.spec.preprocess, Sample(image=work.image))
    found: dict[str, dict[str, Callable[[], object]]] = {"encoder": {}}
    for c in contenders:
        assert c.encoder is not None
        encoded[c.name] = runner.embed(c.model, c.encoder, work.image)
        found["encoder"][c.name] = partial(c.encoder.run, feeds)
    contenders = [c for c in contenders if c.decoder is not None]
    for count in PROMPTS:
        few = work.prompts[:: len(work.prompts) // count]
        found[task_of(count)] = {
            c.name: partial(decode, c, decoder_calls(c, encoded[c.name], few)) for c in contenders
        }
    prompt = work.prompts[len(work.prompts) // 2]
    found[FIRST_MASK] = {c.name: partial(first_mask, c, work.image, prompt) for c in contenders}
    if with_everything:
        found[EVERYTHING] = {c.name: partial(everything, c, encoded[c.name]) for c in contenders}
    return found


def task_of(count: int) -> str:
    """Return the name of the decoder's task for a number of prompts."""
    return "decoder, 1 prompt" if count == 1 else f"decoder, {count} prompts"


def measure(
    contenders: list[Contender], work: Work, repeats: int, *, with_everything: bool
) -> list[Row]:
    """Time all contenders in turn, the two peaks of the machine among them."""
    usable = [c for c in contenders if c.encoder is not None]
    rows = []
    ious = {c.name: agreement(c, work) for c in usable}
    macs = COSTS[work.spec.name].encoder_macs
    for task, calls in tasks(usable, work, with_everything=with_everything).items():
        print(f"timing {work.spec.name}, {task} ...", file=sys.stderr, flush=True)
        peaks = speed_peak.calls() if task == "encoder" else {}
        # The encoder's calls have warmed up the machine, and a call of a later task takes seconds.
        warm_up = WARM_UP if task == "encoder" else 1
        taken = interleave({**calls, **peaks}, rounds_of(task, repeats), warm_up=warm_up)
        for c in contenders:
            if c.name not in calls:
                rows.append(row_of(work, c, task))
                continue
            latency = taken[c.name]
            rows.append(
                replace(
                    row_of(work, c, task),
                    problem="",
                    median_s=latency.median_s,
                    minimum_s=latency.minimum_s,
                    mean_iou=ious[c.name][0],
                    min_iou=ious[c.name][1],
                    masks=int(str(calls[c.name]())) if task == EVERYTHING else None,
                    gflops=2e-9 * macs / latency.median_s if task == "encoder" else None,
                )
            )
        rows += [
            Row(
                model=work.spec.name,
                task="peak",
                kind="peak",
                runtime=name,
                precision="fp32",
                median_s=taken[name].median_s,
                minimum_s=taken[name].minimum_s,
                gflops=1e-9 * speed_peak.FLOPS[name] / taken[name].minimum_s,
            )
            for name in peaks
        ]
    return rows


def rounds_of(task: str, repeats: int) -> int:
    """Return the rounds of a task: fewer of those that take seconds."""
    return {EVERYTHING: 1, task_of(64): max(1, repeats // 3)}.get(task, repeats)


def row_of(work: Work, contender: Contender, task: str) -> Row:
    """Return the row of a contender without its times."""
    return Row(
        model=work.spec.name,
        task=task,
        kind=contender.kind,
        runtime=contender.runtime,
        precision=contender.precision,
        bytes=contender.bytes,
        problem=contender.problem,
    )


def weights_of(spec: ModelSpec, given: Path | None, folder: Path, cache: Path) -> Checkpoint:
    """Return `MODEL.pt` of a folder, the official checkpoint of the cache, or deterministic one."""
    if given is not None and (given / f"{spec.name}.pt").is_file():
        return own_file.checkpoint_from_file(given / f"{spec.name}.pt", spec.weights)
    found = None if spec.weights is None else fetch.cached(spec.weights, cache_dir=cache)
    if found is not None:
        return found
    path = folder / f"{spec.name}.pt"
    if not path.is_file():
        golden_checkpoints.write_checkpoint(spec.name, path, golden_checkpoints.golden_dir())
    return own_file.checkpoint_from_file(path, spec.weights)


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Convert and time all models, and return the document."""
    import torch

    about, rows, official = machine.describe(), [], {}
    for name in args.models:
        spec = models.get(name)
        weights = weights_of(spec, args.weights, folder, fetch.default_cache_dir())
        official[name] = weights.official
        sam = as_sam(checkpoint.load(spec, weights))
        print(f"converting {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            contenders = [
                speed_contenders.theirs(spec, sam, r, Path(temporary)) for r in args.runtime
            ]
            if "onnx" in args.runtime:
                contenders.append(speed_contenders.samexporter_style(spec, sam, Path(temporary)))
            contenders += [
                speed_contenders.ours(spec, weights, runtime, precision, folder)
                for runtime in args.runtime
                for precision in args.precision
            ]
            work = prepare(spec, sam)
            rows += measure(contenders, work, args.repeats, with_everything=args.everything)
    return {
        "command": " ".join(["python -m benchmarks.speed", *args.given]),
        "commit": commit(),
        "machine": about,
        "torch_threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "official_weights": official,
        "rows": [asdict(r) for r in rows],
    }


def commit() -> str | None:
    """Return the short hash of the repository's commit; None without git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, cwd=RESULTS, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def main(argv: list[str] | None = None) -> None:
    """Convert, time, print; keep the figures if a name is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["mobile-sam"], help=", ".join(MODELS))
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--everything", action="store_true", help="also time 1024 prompts")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds that are counted")
    parser.add_argument("--weights", type=Path, help="folder with MODEL.pt files")
    parser.add_argument("--output", type=Path, help="keep our bundles and their cache there")
    parser.add_argument("--json", metavar="NAME", help="write results/NAME.json, .md and .svg")
    args = parser.parse_args(argv, argparse.Namespace(given=sys.argv[1:] if argv is None else argv))
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
    kept = nullcontext(args.output) if args.output else tempfile.TemporaryDirectory()
    with kept as folder:
        document = run(args, Path(folder).resolve())
    print(speed_report.markdown(document, chart=None))
    if args.json:
        path = RESULTS / f"{args.json}.json"
        path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        path.with_suffix(".svg").write_text(speed_report.chart(document), "utf-8")
        chart = f"{args.json}.svg"
        path.with_suffix(".md").write_text(speed_report.markdown(document, chart=chart), "utf-8")


if __name__ == "__main__":
    main()
