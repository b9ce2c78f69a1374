"""A SAM of one convolution in front of the real decoder, with deterministic weights.

Everything but the encoder's size is the real thing, so the whole flow runs in seconds and without
a download. Its masks mean nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.mobile_sam import MOBILE_SAM
from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    SAM_PROMPTS,
)
from effsam_export.models.sam.sizes import sam_at
from effsam_export.spec.model import ImageSizes, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from effsam_export.spec.prompts import Preprocess


def build(preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """The tiny model before weights are loaded; equal at every call, so that traces are shared."""
    import torch
    from torch import nn

    from effsam_export.models.sam.module import Sam

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return Sam(nn.Conv2d(3, 256, kernel_size=16, stride=16), preprocess).eval()


TINY_SAM = ModelSpec(
    name="tiny-sam",
    title="Tiny SAM for tests",
    paper="none",
    origin="none",
    licence=MOBILE_SAM.licence,
    weights=None,
    state="architecture verified",
    preprocess=SAM_PREPROCESS,
    prompts=SAM_PROMPTS,
    masks=SAM_MASKS,
    components=(SAM_ENCODER, SAM_DECODER),
    build=build,
    sizes=ImageSizes(multiple=16, at=partial(sam_at, build)),
)


def write_checkpoint(path: Path) -> Path:
    """Save a state dict of the tiny model, the same numbers at every call."""
    return save_deterministic(build(), path)


def save_deterministic(module: nn.Module, path: Path) -> Path:
    """Save a state dict for a module, drawn from one seed."""
    import torch

    torch.save(deterministic(module.state_dict()), path)
    return path


def deterministic(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names and shapes of another; activations stay of order 1."""
    import torch

    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in like.items():
        noise = torch.randn(value.shape, generator=generator)
        fan_in = value[0].numel() if value.ndim > 1 else 1
        if value.ndim > 1:
            state[name] = noise / fan_in**0.5
        elif name.endswith(("weight", "running_var")):
            state[name] = 1 + 0.1 * noise
        else:
            state[name] = 0.1 * noise
    return state
