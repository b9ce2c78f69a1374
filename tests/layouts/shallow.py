"""SAM's decoder at half its depth, at the 1024 pixels of the apps, with generated weights.

Two more have the names, outputs and sizes of EdgeSAM and of EfficientViT-SAM, which X-AnyLabeling
has types for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models import edge_sam
from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_PREPROCESS,
    encoder_example,
    image_tensor,
)
from effsam_export.models.sam.sizes import sam_at
from effsam_export.spec.model import ImageSizes
from tests import small
from tests.tiny import TINY_SAM, save_deterministic

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Preprocess


def build(preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """The small model at 1024 pixels."""
    return small.build(preprocess)


SHALLOW_SAM = replace(
    TINY_SAM,
    name="shallow-sam",
    title="Shallow SAM for tests of layouts",
    build=build,
    sizes=ImageSizes(multiple=16, at=partial(sam_at, build)),
)


SHALLOW_EDGE = replace(
    SHALLOW_SAM,
    name="edge-sam",
    components=(SAM_ENCODER, edge_sam.DECODER),
    masks=replace(SHALLOW_SAM.masks, score=edge_sam.STABILITY.name),
)
HALF = replace(SAM_PREPROCESS, image_size=512)


def build_half(preprocess: Preprocess = HALF) -> nn.Module:
    """The small model with an encoder of 512 pixels, and prompts in 1024."""
    from torch import nn

    sam = small.build(preprocess)
    sam.image_encoder = nn.Conv2d(3, 256, kernel_size=8, stride=8)
    return sam.eval()


SHALLOW_EFFICIENTVIT = replace(
    SHALLOW_SAM,
    name="efficientvit-sam-l0",
    preprocess=HALF,
    components=(
        replace(SAM_ENCODER, inputs=(image_tensor(HALF),), example=partial(encoder_example, HALF)),
        SAM_DECODER,
    ),
    build=build_half,
    sizes=None,
)


def write_checkpoint(path: Path, model: ModelSpec = SHALLOW_SAM) -> Path:
    """Save a state dict of a shallow model, the same numbers at every call."""
    return save_deterministic(model.build(), path)
