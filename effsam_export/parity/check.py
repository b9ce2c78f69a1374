"""Run both sides of every comparison on real photographs, and judge.

Seams, for each component: (1) the authors' PyTorch path against the traced graph, (2) the traced
graph against the artefact, the decoder always fed with the *reference* embedding; (3) end to end,
photograph to masks at original size, artefact encoder into artefact decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.images import (
    check_prompt,
    frame_of,
    load_image,
    prompt_to_model,
    stability,
    unsupported_parts,
    upscale_masks,
)
from effsam_export.parity.comparison import Expected, ExpectedImage, Measured, Sides, compare
from effsam_export.parity.gates import check_gates
from effsam_export.parity.metrics import boundary_iou, mask_iou
from effsam_export.parity.results import (
    CaseResult,
    ComparisonResult,
    ParityReport,
    Picture,
)
from effsam_export.spec.prompts import Prompt, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.config.parity import ParityImage
    from effsam_export.imaging.images import Frame
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.prompts import PromptSupport
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.spec.tensors import Feeds, Float32
    from effsam_export.util.progress import OnProgress


@dataclass(frozen=True, kw_only=True)
class ParityResult:
    """The report, what an HTML report shows, and the golden vectors."""

    report: ParityReport
    pictures: tuple[Picture, ...]
    expected: tuple[ExpectedImage, ...]


def check(
    model: ModelSpec,
    target: TargetProfile,
    sides: Sides,
    images: Sequence[ParityImage],
    *,
    left_out: tuple[str, ...] = (),
    on_progress: OnProgress | None = None,
) -> ParityResult:
    """Measure every photograph and prompt, and judge by the target's gates.

    Args:
        model: Whose contract is checked.
        target: Gates, and the precision they are for.
        sides: Reference and opened graphs.
        images: Photographs with prompts in original-image pixels.
        left_out: Prompts that `honoured` took out, for the report.
        on_progress: Called with (cases done, cases in all).

    Raises:
        ImageError: A photograph cannot be read.
        PromptError: A prompt does not fit its photograph.
    """
    if model.finds_instances:
        from effsam_export.parity.instances import measure

        measured = measure(model, sides, images, on_progress)
        return _judged(model, target, sides, measured, left_out)
    total = sum(len(i.cases) for i in images)
    comparisons: list[ComparisonResult] = []
    cases: list[CaseResult] = []
    pictures: list[Picture] = []
    expected: list[ExpectedImage] = []
    for row in images:
        image = load_image(row.path)
        frame = frame_of((image.shape[0], image.shape[1]), model.preprocess)
        for entry in row.cases:
            check_prompt(entry.prompt, frame.original, model.prompts)
        sample = Sample(image=image)
        name = row.path.stem
        ref = model.component("encoder").reference(sides.module, sample)
        encoded, found = _compare_both_points(model, "encoder", sides, sample, name, ref)
        comparisons += found
        sample = replace(sample, embeddings=ref["image_embeddings"])
        answers: dict[str, Expected] = {}
        feedback: dict[str, Float32] = {}
        for entry in row.cases:
            prompt = entry.prompt
            if entry.mask_from is not None:
                prompt = replace(prompt, mask_input=feedback[entry.mask_from])
            asked = replace(sample, prompt=prompt_to_model(prompt, frame))
            case = f"{name}/{entry.name}"
            ref = model.component("decoder").reference(sides.module, asked)
            _, found = _compare_both_points(model, "decoder", sides, asked, case, ref)
            comparisons += found
            feedback[entry.name] = ref["low_res_masks"][0, _best_mask(model, ref)]
            logits = upscale_masks(ref["low_res_masks"][0], frame, model.masks)
            answers[entry.name] = Expected(
                name=entry.name,
                prompt=prompt,
                masks=logits > model.masks.threshold,
                scores=ref[model.masks.score][0],
                stability=tuple(stability(mask, model.masks.threshold) for mask in logits),
            )
            if {"encoder", "decoder"} <= set(sides.artifacts):
                end = replace(asked, embeddings=encoded["image_embeddings"])
                got = _run(model.component("decoder"), sides.artifacts["decoder"], model, end)
                result, masks = _end_to_end(model, case, answers[entry.name], ref, got, frame)
                cases.append(result)
                pictures.append(_picture(case, image, prompt, answers[entry.name], masks, result))
            if on_progress is not None:
                on_progress(sum(len(e.cases) for e in expected) + len(answers), total)
        expected.append(ExpectedImage(name=name, image=image, cases=tuple(answers.values())))
    measured = Measured(
        comparisons=tuple(comparisons),
        cases=tuple(cases),
        pictures=tuple(pictures),
        expected=tuple(expected),
    )
    return _judged(model, target, sides, measured, left_out)


def _judged(
    model: ModelSpec,
    target: TargetProfile,
    sides: Sides,
    measured: Measured,
    left_out: tuple[str, ...],
) -> ParityResult:
    """What was measured, with the judgement of it."""
    report = ParityReport(
        model=model.name,
        target=target.name,
        precision=target.precision,
        gates=target.gates,
        comparisons=measured.comparisons,
        cases=measured.cases,
        failures=check_gates(target.gates, measured.comparisons, measured.cases, model.masks.score),
        left_out=left_out,
        simulator=sides.simulator,
    )
    return ParityResult(report=report, pictures=measured.pictures, expected=measured.expected)


def supported_cases(
    images: Sequence[ParityImage], support: PromptSupport
) -> tuple[tuple[ParityImage, ...], tuple[str, ...]]:
    """The photographs with the prompts a model can honour, and why each other is left out.

    For the prompts that ship, which every model is judged by. A user's own are refused instead.
    """
    kept, left_out = [], []
    for row in images:
        cases = []
        for case in row.cases:
            reasons = unsupported_parts(case.prompt, support)
            if case.mask_from is not None and not support.mask:
                reasons.append("this model takes no mask")
            if reasons:
                left_out.append(f"{row.path.stem}/{case.name}: {'; '.join(reasons)}")
            else:
                cases.append(case)
        kept.append(replace(row, cases=tuple(cases)))
    return tuple(row for row in kept if row.cases), tuple(left_out)


def _run(spec: ComponentSpec, session: Session, model: ModelSpec, sample: Sample) -> Feeds:
    return session.run(spec.feeds(model.preprocess, sample))


def _compare_both_points(
    model: ModelSpec, name: str, sides: Sides, sample: Sample, case: str, reference: Feeds
) -> tuple[Feeds, list[ComparisonResult]]:
    """Seams 1 and 2 of one component on one input, and the artefact's outputs."""
    if name not in sides.artifacts:
        return {}, []
    spec = model.component(name)
    traced = _run(spec, sides.sources[name], model, sample)
    same = sides.artifacts[name] is sides.sources[name]
    lowered = traced if same else _run(spec, sides.artifacts[name], model, sample)
    return lowered, [
        compare("onnx", spec, case, reference, traced),
        compare("artifact", spec, case, traced, lowered),
    ]


def _best_mask(model: ModelSpec, outputs: Feeds) -> int:
    scores = outputs[model.masks.score][0]
    return max(model.masks.multimask, key=lambda i: float(scores[i]))


def _end_to_end(
    model: ModelSpec, case: str, expected: Expected, ref: Feeds, got: Feeds, frame: Frame
) -> tuple[CaseResult, NDArray[np.bool_]]:
    """Masks at original size and scores, artefact against PyTorch."""
    masks = upscale_masks(got["low_res_masks"][0], frame, model.masks) > model.masks.threshold
    scores = ref[model.masks.score][0]
    best = _best_mask(model, ref)
    found = _best_mask(model, got)
    others = [float(scores[i]) for i in model.masks.multimask if i != best]
    result = CaseResult(
        case=case,
        mask_iou=tuple(mask_iou(a, b) for a, b in zip(expected.masks, masks, strict=True)),
        boundary_iou=tuple(boundary_iou(a, b) for a, b in zip(expected.masks, masks, strict=True)),
        score_error=float(np.abs(scores - got[model.masks.score][0]).max()),
        best=best,
        artifact_best=found,
        score_gap=float(scores[best]) - max(others, default=float("-inf")),
        best_iou=mask_iou(expected.masks[best], masks[found]),
        user_masks=(*model.masks.single, best),
        scores=tuple(float(score) for score in scores),
        stability=expected.stability,
    )
    return result, masks


def _picture(
    case: str,
    image: NDArray[np.uint8],
    prompt: Prompt,
    expected: Expected,
    masks: NDArray[np.bool_],
    result: CaseResult,
) -> Picture:
    return Picture(
        case=case,
        image=image,
        points=tuple((p.x, p.y, p.label) for p in prompt.points),
        box=prompt.box,
        reference=expected.masks[result.worst],
        actual=masks[result.worst],
        mask=result.worst,
    )
