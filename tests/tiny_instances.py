"""A model that finds instances, of a few convolutions and 256 pixels, with deterministic weights.

It has FastSAM's contract (tensors, letterbox, prompts) and none of its network: an export takes
seconds. What it finds means nothing; there is much of it, and it overlaps.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from effsam_export.models.fast_sam import FAST_SAM_S, OUTPUTS, SEGMENTER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Sample
    from effsam_export.spec.tensors import Feeds

SIDE, CELL, PART = 256, 8, 4
"""Pixels of the image, of a cell that finds one instance, and of a pixel of the prototypes."""
COUNT = (SIDE // CELL) ** 2
HIDDEN, COEFFICIENTS = 16, 32
RARE = -1.0
"""Bias of the scores, so that not everything is found."""


@cache
def module_class() -> type[nn.Module]:
    """The module; a function, so that torch is imported late."""
    import torch
    from torch import Tensor, nn

    class Cells(nn.Module):
        """Image 1x3xSxS (0 to 255) to boxes, scores, coefficients and prototypes."""

        centres: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.Conv2d(3, HIDDEN, CELL, CELL)
            self.found = nn.Conv2d(HIDDEN, 5 + COEFFICIENTS, 1)
            self.parts = nn.Conv2d(3, HIDDEN, PART, PART)
            self.prototypes = nn.Conv2d(HIDDEN, COEFFICIENTS, 1)
            at = (torch.arange(SIDE // CELL) + 0.5) * CELL
            y, x = torch.meshgrid(at, at, indexing="ij")
            centres = torch.stack([x.flatten(), y.flatten()], dim=1)[None]
            self.register_buffer("centres", centres, persistent=False)

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            image = image / 255.0
            found = self.found(torch.sin(self.cells(image))).flatten(2).transpose(1, 2)
            reach = SIDE * torch.sigmoid(found[..., :4])
            low, high = self.centres - reach[..., :2], self.centres + reach[..., 2:]
            prototypes = self.prototypes(torch.sin(self.parts(image)))
            boxes = torch.cat([low, high], dim=2)
            return boxes, torch.sigmoid(found[..., 4]), found[..., 5:], prototypes

    return Cells


def build() -> nn.Module:
    """The tiny model, weights not loaded."""
    return module_class()().eval()


def example() -> Mapping[str, Any]:
    """Tracing input."""
    import torch

    return {"image": torch.zeros(1, 3, SIDE, SIDE)}


def reference(module: nn.Module, sample: Sample) -> Feeds:
    """The plain forward pass on the letterboxed photograph."""
    import torch

    from effsam_export.imaging.letterbox import letterbox

    boxed, _ = letterbox(sample.image, SIDE, square=True)
    with torch.inference_mode():
        found = module(torch.from_numpy(boxed).permute(2, 0, 1)[None].float())
    return {spec.name: value.numpy() for spec, value in zip(OUTPUTS, found, strict=True)}


def _spec() -> ModelSpec:
    boxes, scores, coefficients, prototypes = OUTPUTS
    component = replace(
        SEGMENTER,
        inputs=(replace(SEGMENTER.inputs[0], shape=(1, 3, SIDE, SIDE)),),
        outputs=(
            replace(boxes, shape=(1, COUNT, 4)),
            replace(scores, shape=(1, COUNT)),
            replace(coefficients, shape=(1, COUNT, COEFFICIENTS)),
            replace(prototypes, shape=(1, COEFFICIENTS, SIDE // PART, SIDE // PART)),
        ),
        wrap=lambda module: module,
        example=example,
        reference=reference,
    )
    return replace(
        FAST_SAM_S,
        name="tiny-instances",
        title="Tiny instances for tests",
        weights=None,
        preprocess=replace(FAST_SAM_S.preprocess, image_size=SIDE, prompt_size=SIDE),
        masks=replace(FAST_SAM_S.masks, low_res_size=SIDE // PART),
        components=(component,),
        build=build,
        build_like=None,
        sizes=None,
    )


TINY_INSTANCES = _spec()


def write_checkpoint(path: Path) -> Path:
    """Save a state dict of the tiny model, the same numbers at every call."""
    import torch

    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, value in build().state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        state[name] = noise * (4 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.5)
    state["found.bias"][4] = RARE
    torch.save(state, path)
    return path
