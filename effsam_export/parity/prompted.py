"""Comparison of a model with an encoder and a promptable mask decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.images import frame_of, prompt_to_model, stability, upscale_masks
from effsam_export.parity.cases import CaseResult
from effsam_export.parity.comparison import (
    Expected,
    PromptMeasurement,
    compare_graphs,
    run_graphs,
)
from effsam_export.parity.metrics import boundary_iou, mask_iou
from effsam_export.parity.results import Picture
from effsam_export.parity.slots import encode
from effsam_export.spec.prompts import Prompt, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.config.parity import ParityCase
    from effsam_export.parity.comparison import Sides
    from effsam_export.parity.results import ComparisonResult
    from effsam_export.parity.slots import Call
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Feeds, Float32


class PromptedImage:
    """The comparisons of one image; the encoder's are made at once.

    The decoder is always fed PyTorch's embedding, so that its own differences are measured. End to
    end it is fed the embedding of the exported encoder.

    Args:
        model: Specification of the model.
        sides: The PyTorch model and the opened graphs.
        name: Name of the image.
        calls: The image, RGB uint8 HxWx3, in the calls of the encoder.
    """

    cases: tuple[CaseResult, ...] = ()

    def __init__(self, model: ModelSpec, sides: Sides, name: str, calls: tuple[Call, ...]) -> None:
        image = calls[0].images[calls[0].own]
        self._model, self._sides, self._name, self._image = model, sides, name, image
        self._frame = frame_of((image.shape[0], image.shape[1]), model.preprocess)
        self._logits: dict[str, Float32] = {}
        encoded = encode(model, model.component("encoder"), sides, name, calls)
        self._encoded, self.comparisons = encoded.outputs, encoded.comparisons
        self._sample = Sample(image=image).encoded(encoded.reference)

    def measure(self, case: ParityCase) -> PromptMeasurement:
        """Compare the decoder's outputs and the end-to-end masks for one prompt."""
        model, sides, frame = self._model, self._sides, self._frame
        prompt = case.prompt
        if case.mask_from is not None:
            prompt = replace(prompt, mask_input=self._logits[case.mask_from])
        spec, name = model.component("decoder"), f"{self._name}/{case.name}"
        sample = replace(self._sample, prompt=prompt_to_model(prompt, frame))
        reference = spec.reference(sides.module, sample)
        feeds = spec.feeds(model.preprocess, sample)
        comparisons: tuple[ComparisonResult, ...] = ()
        if spec.name in sides.artifacts:
            ran = run_graphs(spec, sides, feeds)
            comparisons = compare_graphs(spec, name, reference, *ran)
        reference = model.masks.of(reference)
        self._logits[case.name] = reference["low_res_masks"][0, _best_mask(model, reference)]
        logits = upscale_masks(reference["low_res_masks"][0], frame, model.masks)
        expected = Expected(
            name=case.name,
            prompt=prompt,
            masks=logits > model.masks.threshold,
            scores=reference[model.masks.score][0],
            stability=tuple(stability(mask, model.masks.threshold) for mask in logits),
        )
        result, picture = None, None
        if {"encoder", "decoder"} <= set(sides.artifacts):
            sample = sample.encoded(self._encoded)
            outputs = model.masks.of(
                sides.artifacts["decoder"].run(spec.feeds(model.preprocess, sample))
            )
            masks = upscale_masks(outputs["low_res_masks"][0], frame, model.masks)
            actual = masks > model.masks.threshold
            result = _case_result(model, name, expected, actual, outputs)
            picture = _picture(name, self._image, prompt, expected, actual, result)
        return PromptMeasurement(
            comparisons=comparisons, expected=expected, result=result, picture=picture
        )


def _best_mask(model: ModelSpec, outputs: Feeds) -> int:
    """Return the index of the best-scoring mask of the multimask set."""
    return _best_index(model, outputs[model.masks.score][0])


def _best_index(model: ModelSpec, scores: Float32) -> int:
    return max(model.masks.multimask, key=lambda i: float(scores[i]))


def _case_result(
    model: ModelSpec, case: str, expected: Expected, actual: NDArray[np.bool_], outputs: Feeds
) -> CaseResult:
    """Compare the artefact's masks (KxHxW bool at original size) and scores with PyTorch's."""
    scores = expected.scores
    best, artifact_best = _best_index(model, scores), _best_mask(model, outputs)
    others = [float(scores[i]) for i in model.masks.multimask if i != best]
    pairs = list(zip(expected.masks, actual, strict=True))
    errors = np.abs(scores - outputs[model.masks.score][0])
    return CaseResult(
        case=case,
        mask_iou=tuple(mask_iou(a, b) for a, b in pairs),
        boundary_iou=tuple(boundary_iou(a, b) for a, b in pairs),
        score_error=float(errors.max()),
        best=best,
        artifact_best=artifact_best,
        score_gap=float(scores[best]) - max(others, default=float("-inf")),
        best_iou=mask_iou(expected.masks[best], actual[artifact_best]),
        user_masks=(*model.masks.single, best),
        scores=tuple(float(score) for score in scores),
        stability=expected.stability,
        score_errors=tuple(float(error) for error in errors),
        finite=all(bool(np.isfinite(value).all()) for value in outputs.values()),
    )


def _picture(
    case: str,
    image: NDArray[np.uint8],
    prompt: Prompt,
    expected: Expected,
    actual: NDArray[np.bool_],
    result: CaseResult,
) -> Picture:
    return Picture(
        case=case,
        image=image,
        points=tuple((p.x, p.y, p.label) for p in prompt.points),
        box=prompt.box,
        reference=expected.masks[result.worst],
        actual=actual[result.worst],
        mask=result.worst,
    )
