"""Run the opened graphs of a model on images and prompts, without torch, as an app does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.errors import PromptError
from effsam_export.imaging import instances, letterbox
from effsam_export.imaging.images import (
    Frame,
    check_prompt,
    frame_of,
    prompt_to_model,
    upscale_masks,
)
from effsam_export.spec.prompts import Sample
from effsam_export.spec.slots import in_every_slot, in_one_slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.imaging.instances import Instances
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import MaskSet, Prompt
    from effsam_export.spec.tensors import Feeds, Float32


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """An image after the encoder."""

    frame: Frame
    sample: Sample
    """The image and its `embeddings`; no prompt."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The masks of one prompt, best score first.

    Attributes:
        masks: Bool KxHxW at original size.
        scores: float32 K: predicted IoU, or the output by which the model ranks masks.
        low_res_masks: Logits float32 KxSxS, usable as the next prompt's `mask_input`. None for a
            model that segments instances.
        indices: Position of each mask in the decoder's output.
    """

    masks: NDArray[np.bool_]
    scores: Float32
    low_res_masks: Float32 | None
    indices: tuple[int, ...]


def embed(model: ModelSpec, encoder: Session, image: NDArray[np.uint8]) -> Embedded:
    """Encode an image uint8 HxWx3 RGB once, for any number of prompts.

    An encoder that takes several images in a call gets this one in every slot.
    """
    frame = frame_of((image.shape[0], image.shape[1]), model.preprocess)
    sample = Sample(image=image)
    spec = model.component("encoder")
    outputs = encoder.run(in_every_slot(spec, spec.feeds(model.preprocess, sample)))
    return Embedded(frame=frame, sample=sample.encoded(in_one_slot(spec, outputs)))


def predict(
    model: ModelSpec,
    decoder: Session,
    embedded: Embedded,
    prompt: Prompt,
    *,
    single_mask: bool = False,
    only_best: bool = False,
) -> Prediction:
    """Return the masks of one prompt.

    Args:
        model: The model to which the decoder belongs.
        decoder: Session of the decoder.
        embedded: The encoded image.
        prompt: In pixels of the original image.
        single_mask: Return the single-mask output instead of the multimask outputs.
        only_best: Return the mask with the best score alone. Resizing the others takes time.

    Raises:
        PromptError: The prompt is outside the image or not supported by the model.
    """
    check_prompt(prompt, embedded.frame.original, model.prompts)
    if single_mask:
        require_single_mask(model)
    outputs = model.masks.of(decoder.run(decoder_feeds(model, embedded, prompt)))
    indices = model.masks.single if single_mask else model.masks.multimask
    return select(outputs, indices, model.masks, embedded.frame, count=1 if only_best else None)


def require_single_mask(model: ModelSpec) -> None:
    """Check that a model has a single-mask output.

    Raises:
        PromptError: It has none.
    """
    if not model.masks.single or model.finds_instances:
        raise PromptError(
            f"`{model.name}` has no single-mask output", hint="leave --single-mask out"
        )


def find_instances(model: ModelSpec, segmenter: Session, image: NDArray[np.uint8]) -> Instances:
    """Return the instances that a segmenter detects in an image uint8 HxWx3 RGB."""
    spec = model.component("segmenter")
    outputs = segmenter.run(in_every_slot(spec, spec.feeds(model.preprocess, Sample(image=image))))
    size = (image.shape[0], image.shape[1])
    box = letterbox.fit(size, model.preprocess.image_size, square=True)
    return instances.detect(outputs, box)


def select_instance(model: ModelSpec, detected: Instances, prompt: Prompt) -> Prediction:
    """Select the mask of one prompt, in original-image pixels, from detected instances.

    Raises:
        PromptError: The prompt is outside the image or not supported by the model.
    """
    check_prompt(prompt, detected.letterbox.original, model.prompts)
    mask, score = instances.mask_of(detected, prompt)
    return Prediction(
        masks=mask[None],
        scores=np.asarray([score], dtype=np.float32),
        low_res_masks=None,
        indices=(0,),
    )


def decoder_feeds(model: ModelSpec, embedded: Embedded, prompt: Prompt) -> Feeds:
    """Return the decoder's inputs for a prompt in original-image pixels."""
    moved = prompt_to_model(prompt, embedded.frame)
    spec = model.component("decoder")
    return spec.feeds(model.preprocess, replace(embedded.sample, prompt=moved))


def select(
    outputs: Feeds,
    indices: tuple[int, ...],
    masks: MaskSet,
    frame: Frame,
    *,
    count: int | None = None,
) -> Prediction:
    """Return the decoder's masks at `indices`, at original size and by descending score.

    `count` is the number of masks that are returned; None for all.
    """
    scores = outputs[masks.score][0]
    order = tuple(sorted(indices, key=lambda i: -float(scores[i])))[:count]
    low_res = np.ascontiguousarray(outputs["low_res_masks"][0, list(order)], dtype=np.float32)
    return Prediction(
        masks=upscale_masks(low_res, frame, masks) > masks.threshold,
        scores=scores[list(order)].astype(np.float32),
        low_res_masks=low_res,
        indices=order,
    )
