"""SAM's decoder at half its depth, on photographs of 256 pixels, with deterministic weights.

For tests of the flow, in which neither the model's size nor its depth matters: it is traced in half
the time of `tests.tiny`, and a prompt takes a sixteenth of the work. Its masks mean nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    decoder_feeds,
)
from tests.tiny import TINY_SAM, save_deterministic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from effsam_export.spec.prompts import Preprocess, Sample
    from effsam_export.spec.tensors import Feeds, TensorSpec

SHAPES: dict[str, tuple[int | str, ...]] = {
    "image": (1, 3, 256, 256),
    "image_embeddings": (1, 256, 16, 16),
    "mask_input": ("prompts", 1, 64, 64),
    "low_res_masks": ("prompts", 4, 64, 64),
}
SMALL_PREPROCESS = replace(SAM_PREPROCESS, image_size=256, prompt_size=256)


def build() -> nn.Module:
    """The small model before weights are loaded; equal at every call, so that traces are shared."""
    import torch
    from torch import nn

    from effsam_export.models.sam.module import Sam

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        sam = Sam(nn.Conv2d(3, 256, kernel_size=16, stride=16), SMALL_PREPROCESS)
    del sam.mask_decoder.transformer.layers[1]
    return sam.eval()


def sized(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """SAM's tensors in the sizes of the small model."""
    return tuple(replace(t, shape=SHAPES.get(t.name, t.shape)) for t in tensors)


def encoder_example() -> Mapping[str, Any]:
    import torch

    return {"image": torch.zeros(1, 3, 256, 256)}


def decoder_example() -> Mapping[str, Any]:
    import torch

    embeddings, mask = torch.zeros(1, 256, 16, 16), torch.zeros(2, 1, 64, 64)
    return {**SAM_DECODER.example(), "image_embeddings": embeddings, "mask_input": mask}


def small_decoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """SAM's inputs with a mask of 64x64."""
    import numpy as np

    assert sample.prompt is not None
    earlier = sample.prompt.mask_input
    without = replace(sample, prompt=replace(sample.prompt, mask_input=None))
    mask = np.zeros((64, 64), np.float32) if earlier is None else earlier
    return {
        **decoder_feeds(preprocess, without),
        "mask_input": mask[None, None],
        "has_mask_input": np.asarray([earlier is not None], np.float32),
    }


SMALL_SAM = replace(
    TINY_SAM,
    name="small-sam",
    title="Small SAM for tests of the flow",
    preprocess=SMALL_PREPROCESS,
    masks=replace(SAM_MASKS, low_res_size=64),
    components=(
        replace(
            SAM_ENCODER,
            inputs=sized(SAM_ENCODER.inputs),
            outputs=sized(SAM_ENCODER.outputs),
            example=encoder_example,
        ),
        replace(
            SAM_DECODER,
            inputs=sized(SAM_DECODER.inputs),
            outputs=sized(SAM_DECODER.outputs),
            example=decoder_example,
            feeds=small_decoder_feeds,
        ),
    ),
    build=build,
)


def write_checkpoint(path: Path) -> Path:
    """Save a state dict of the small model, the same numbers at every call."""
    return save_deterministic(build(), path)
