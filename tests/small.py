"""SAM's decoder at half its depth, on photographs of 256 pixels, with deterministic weights.

For tests of the flow, in which neither the model's size nor its depth matters: it is traced in half
the time of `tests.tiny`, and a prompt takes a sixteenth of the work. Its masks mean nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import SAM_PREPROCESS
from effsam_export.models.sam.sizes import sam_at
from effsam_export.spec.model import ImageSizes
from tests.tiny import TINY_SAM, save_deterministic

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.spec.prompts import Preprocess

SIDE = 256
SMALL_PREPROCESS = replace(SAM_PREPROCESS, image_size=SIDE, prompt_size=SIDE)


def build(preprocess: Preprocess = SMALL_PREPROCESS) -> nn.Module:
    """The small model before weights are loaded; equal at every call, so that traces are shared."""
    import torch
    from torch import nn

    from effsam_export.models.sam.module import Sam

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        sam = Sam(nn.Conv2d(3, 256, kernel_size=16, stride=16), preprocess)
    del sam.mask_decoder.transformer.layers[1]
    return sam.eval()


SMALL_SAM = replace(
    sam_at(build, TINY_SAM, SIDE),
    name="small-sam",
    title="Small SAM for tests of the flow",
    sizes=ImageSizes(own=SIDE, multiple=16, at=partial(sam_at, build)),
)


def write_checkpoint(path: Path) -> Path:
    """Save a state dict of the small model, the same numbers at every call."""
    return save_deterministic(build(), path)
