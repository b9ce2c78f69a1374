"""Measure the error of FP16 with and without each scale folding and each precision rule.

`python -m benchmarks.fp16_overflow MODEL CHECKPOINT [--images N]` prints a table in Markdown. FP16
is simulated (`benchmarks/fp16_simulation.py`): once with subnormal numbers, and once for an
accelerator that flushes numbers below 6.1e-5 to zero. Each row leaves out one measure. Errors are
relative to the FP32 reference, on the shipped images and prompts. For models whose weights are not
available, `benchmarks.golden_checkpoints` makes a checkpoint; only the embedding's error is then
meaningful.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fp16_simulation import Arithmetic, simulate
from effsam_export import models
from effsam_export.config.parity import load_parity_images
from effsam_export.graph import trace
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import frame_of, prompt_to_model, upscale_masks
from effsam_export.precision.select import fp32_program_nodes
from effsam_export.spec.prompts import Sample
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import own_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import nn
    from torch.export import ExportedProgram

    from effsam_export.config.parity import ParityImage
    from effsam_export.spec.model import KeepFp32, ModelSpec
    from effsam_export.spec.tensors import Feeds

PACKAGE = "effsam_export.models"


@dataclass(frozen=True, kw_only=True)
class ScaleFolding:
    """A scale folding of some models, and the module attributes that turn it off."""

    models: tuple[str, ...]
    module: str
    disabled: dict[str, Any]


def _plain_tiny_vit() -> Callable[[nn.Module], nn.Module]:
    from effsam_export.models.folding import fold_batch_norms

    return fold_batch_norms


SAM_LIKE = ("sam-", "mobile-", "edge-", "efficientvit-", "repvit-", "slim-", "expedit-")
SCALE_FOLDINGS: dict[str, ScaleFolding] = {
    "neck / 64": ScaleFolding(
        models=("sam-", "mobile-", "edge-", "repvit-", "slim-", "expedit-"),
        module="sam.scale_folding",
        disabled={"NECK_DIVISOR": 1.0},
    ),
    "mask prompt x 16": ScaleFolding(
        models=SAM_LIKE, module="sam.scale_folding", disabled={"MASK_GAIN": 1.0}
    ),
    "TinyViT's last stage / 8": ScaleFolding(
        models=("mobile-",), module="tiny_vit_export", disabled={"LARGE_STAGE_DIVISOR": 1.0}
    ),
    "TinyViT's norms before the windows": ScaleFolding(
        models=("mobile-",), module="tiny_vit_export", disabled={"export_form": _plain_tiny_vit}
    ),
    "neck's last convolution / 64": ScaleFolding(
        models=("efficientvit-",), module="efficientvit_export", disabled={"NECK_DIVISOR": 1.0}
    ),
    "linear attention / 2^12": ScaleFolding(
        models=("efficientvit-",), module="efficientvit_export", disabled={"ATTENTION_DIVISOR": 1.0}
    ),
    "linear attention, all of it": ScaleFolding(
        models=("efficientvit-",),
        module="efficientvit_export",
        disabled={"ExportLiteMLA": lambda: _same},
    ),
}


def _same(module: nn.Module) -> nn.Module:
    return module


@contextmanager
def without_folding(fold: ScaleFolding) -> Iterator[None]:
    """Inside the context, export forms are made without a scale folding."""
    target = import_module(f"{PACKAGE}.{fold.module}")
    before = {name: getattr(target, name) for name in fold.disabled}
    for name, value in fold.disabled.items():
        setattr(target, name, value() if callable(value) else value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


@dataclass(frozen=True, kw_only=True)
class ReferenceImage:
    """An image, its prompts, and the reference's outputs."""

    image: NDArray[np.uint8]
    row: ParityImage
    embedding: NDArray[np.float32]
    samples: dict[str, Sample]
    answers: dict[str, Feeds]


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Errors of one simulated computation over all images and prompts.

    Attributes:
        broken: Share of the embedding's elements that are NaN or Inf.
        error: Largest error of the embedding's other elements.
        min_iou, mean_iou: IoU of the best-scoring masks with the reference's, at original size.
        score: Largest error of a predicted IoU; NaN if one was NaN.
    """

    broken: float
    error: float
    min_iou: float
    mean_iou: float
    score: float


def reference_image(model: ModelSpec, module: nn.Module, row: ParityImage) -> ReferenceImage:
    """Run the FP32 reference on every prompt of an image."""
    encoder, decoder = model.component("encoder"), model.component("decoder")
    image = load_image(row.path)
    frame = frame_of((image.shape[0], image.shape[1]), model.preprocess)
    embedding = encoder.reference(module, Sample(image=image))["image_embeddings"]
    samples: dict[str, Sample] = {}
    answers: dict[str, Feeds] = {}
    for case in row.cases:
        prompt = case.prompt
        if case.mask_from is not None:
            best = _best_mask(model, answers[case.mask_from])
            logits = answers[case.mask_from]["low_res_masks"][0, best]
            prompt = replace(prompt, mask_input=np.ascontiguousarray(logits))
        moved = prompt_to_model(prompt, frame)
        samples[case.name] = Sample(image=image, embeddings=embedding, prompt=moved)
        answers[case.name] = decoder.reference(module, samples[case.name])
    return ReferenceImage(
        image=image, row=row, embedding=embedding, samples=samples, answers=answers
    )


def evaluate(
    model: ModelSpec,
    module: nn.Module,
    references: list[ReferenceImage],
    recipe: tuple[KeepFp32, ...],
    *,
    flush: bool,
) -> Degradation:
    """Run both graphs in simulated FP16, the decoder on the embedding of the encoder."""
    runs: dict[str, tuple[ExportedProgram, Arithmetic]] = {}
    for spec in model.components:
        program = trace.trace(module, spec)
        kept = fp32_program_nodes(program, [k for k in recipe if k.component == spec.name])
        runs[spec.name] = program, Arithmetic(keep=kept, flush=flush)
    broken, errors, ious, scores = [], [], [], []
    for one in references:
        embedding = _run(model, runs, "encoder", Sample(image=one.image))["image_embeddings"]
        bad = ~np.isfinite(embedding)
        broken.append(float(bad.mean()))
        errors.append(float(np.abs(embedding - one.embedding)[~bad].max(initial=0.0)))
        frame = frame_of((one.image.shape[0], one.image.shape[1]), model.preprocess)
        for name, sample in one.samples.items():
            found = _run(model, runs, "decoder", replace(sample, embeddings=embedding))
            wanted = one.answers[name]
            best = _best_mask(model, wanted)
            masks = [
                upscale_masks(
                    np.ascontiguousarray(f["low_res_masks"][0, [best]]), frame, model.masks
                )
                > model.masks.threshold
                for f in (found, wanted)
            ]
            union = np.logical_or(*masks).sum()
            ious.append(float(np.logical_and(*masks).sum() / union) if union else 1.0)
            difference = found[model.masks.score] - wanted[model.masks.score]
            scores.append(float(np.abs(difference).max()))
    return Degradation(
        broken=float(np.mean(broken)),
        error=max(errors),
        min_iou=min(ious),
        mean_iou=float(np.mean(ious)),
        score=float(np.max(scores)),
    )


def _run(
    model: ModelSpec,
    runs: dict[str, tuple[ExportedProgram, Arithmetic]],
    name: str,
    sample: Sample,
) -> Feeds:
    spec = model.component(name)
    program, arithmetic = runs[name]
    outputs = simulate(program, spec.feeds(model.preprocess, sample), arithmetic)
    return {s.name: t.numpy() for s, t in zip(spec.outputs, outputs, strict=True)}


def _best_mask(model: ModelSpec, answer: Feeds) -> int:
    """Return the index of the best-scoring mask of the multimask set."""
    scores = answer[model.masks.score][0]
    return max(model.masks.multimask, key=lambda i: float(scores[i]))


def table(model: ModelSpec, checkpoint: Path, images: int) -> Iterator[str]:
    """Yield the lines of the Markdown table as they are computed."""
    module = loading.load(model, own_file.checkpoint_from_file(checkpoint, model.weights))
    from effsam_export.parity.evaluation_set import supported_cases

    rows = supported_cases(load_parity_images(), model.prompts)[0][:images]
    references = [reference_image(model, module, row) for row in rows]
    yield (
        "| `" + model.name + "` | below 6.1e-5 | NaN or Inf | embedding error | min mask IoU "
        "| mean | score error |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    folds = {n: f for n, f in SCALE_FOLDINGS.items() if model.name.startswith(f.models)}
    plans: list[tuple[str, tuple[ScaleFolding, ...], tuple[KeepFp32, ...]]] = [
        ("as exported", (), model.precision),
        ("without scale folding or recipe", tuple(folds.values()), ()),
        *((f"without: {name}", (fold,), model.precision) for name, fold in folds.items()),
    ]
    for i, entry in enumerate(model.precision):
        others = (*model.precision[:i], *model.precision[i + 1 :])
        plans.append((f"in FP16 too: {' '.join(entry.modules)}", (), others))
    for label, disabled, recipe in plans:
        for flush in (False, True):
            with ExitStack() as stack:
                for fold in disabled:
                    stack.enter_context(without_folding(fold))
                result = evaluate(model, module, references, recipe, flush=flush)
            yield (
                f"| {label} | {'zero' if flush else 'kept'} | {result.broken:.1%} "
                f"| {result.error:.2g} | {result.min_iou:.4f} | {result.mean_iou:.4f} "
                f"| {result.score:.2g} |"
            )


def main(argv: list[str] | None = None) -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", choices=[*models.MODELS])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=3, help="number of images")
    args = parser.parse_args(argv)
    for line in table(models.get(args.model), args.checkpoint, args.images):
        print(line, flush=True)


if __name__ == "__main__":
    main()
