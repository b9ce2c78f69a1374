"""SAM with a ViT of two blocks, one of them global, with deterministic weights.

For tests of position tables: its checkpoints show the size of their images. Its masks mean nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import SAM_PREPROCESS
from effsam_export.models.sam.sizes import sam_at
from effsam_export.models.sam_vit import VIT_ENCODER
from effsam_export.models.vit_tables import fitted, size_of
from effsam_export.spec.model import ImageSizes
from tests.tiny import TINY_SAM, save_deterministic

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Preprocess
    from effsam_export.spec.sizes import Size

GLOBAL_BLOCKS = (1,)
SIDE = 128


def build(preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """The model before weights are loaded."""
    from effsam_export.models.sam.mask_decoder import MaskDecoder
    from effsam_export.models.sam.module import Sam
    from effsam_export.models.vit import ImageEncoderViT

    class ShallowDecoder(MaskDecoder):
        """Half the depth, which is traced in half the time, for any number of masks."""

        def __init__(self, dim: int = 256, num_multimask_outputs: int = 3) -> None:
            super().__init__(dim, num_multimask_outputs)
            del self.transformer.layers[1]

    encoder = ImageEncoderViT(
        dim=32,
        depth=2,
        num_heads=2,
        global_blocks=GLOBAL_BLOCKS,
        window=6,
        image_size=preprocess.image_size,
    )
    sam = Sam(encoder, preprocess)
    sam.mask_decoder = ShallowDecoder()
    return sam.eval()


def at_size(model: ModelSpec, size: Size) -> ModelSpec:
    """The model for another size of input."""
    return replace(sam_at(build, model, size), fit=partial(fitted, GLOBAL_BLOCKS, size))


TINY_VIT = replace(
    sam_at(build, TINY_SAM, SIDE),
    name="tiny-vit",
    title="Tiny SAM with a ViT for tests",
    components=tuple(
        replace(c, wrap=VIT_ENCODER.wrap) if c.name == "encoder" else c
        for c in sam_at(build, TINY_SAM, SIDE).components
    ),
    sizes=ImageSizes(own=SIDE, multiple=16, at=at_size, of_state=size_of),
)


def write_checkpoint(path: Path, side: int = SIDE) -> Path:
    """Save a state dict with position tables for an input of `side` pixels."""
    preprocess = replace(SAM_PREPROCESS, image_size=side, prompt_size=side)
    return save_deterministic(build(preprocess), path)
