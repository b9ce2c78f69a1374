"""Powers of two moved through layer norms, so that FP16 holds what they square.

Layer normalisation is scale-invariant: with the convolution in front of it scaled by a power of
two, and eps by its square, the norm gives the same numbers, in FP32 to the bit.
"""

from __future__ import annotations

from copy import copy, deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from effsam_export.models.sam.layers import LayerNorm2d

if TYPE_CHECKING:
    from effsam_export.models.sam.prompt_encoder import PromptEncoder

NECK_FOLD = 64.0
"""Taken out of the convolutions in front of the neck's two LayerNorm2d.

In MobileSAM they reach 275 and 598 on photographs, and the norms square that: 7.5e4 and 3.6e5, past
FP16's 65504. Divided by 64 the squares are 18 and 87. The quiet end holds too: the least variance
is then 0.0084 and 0.38, far above FP16's smallest numbers, where eps goes (2.4e-10 is zero there).
Without it MobileSAM in simulated FP16 has a mask IoU of 0.0, with it 0.995 to 1
(`benchmarks/hazards.py`).
"""

MASK_GAIN = 16.0
"""Put into the convolutions in front of the norms of the mask prompt.

Without a mask they see zeros, and their variance is that of the biases: 1.5e-5 in SAM's decoder,
with an eps of 1e-6. Accelerators that take numbers below 6.1e-5 for zero divide by zero there, and
the NaN reaches every mask although the branch is multiplied by 0. With the gain it is 3.9e-3.
"""


def scaled(conv: nn.Conv2d, norm: LayerNorm2d, factor: float) -> tuple[nn.Conv2d, LayerNorm2d]:
    """Twins of a convolution that gives `factor` times as much, and of the norm behind it.

    Given: ``y = conv(x)``, ``norm(y)`` with eps
    Result: ``y = factor * conv(x)``, ``norm(y)`` with eps * factor**2
    """
    twin, folded = deepcopy(conv), deepcopy(norm)
    twin.weight = nn.Parameter(conv.weight.detach() * factor, requires_grad=False)
    if conv.bias is not None:
        twin.bias = nn.Parameter(conv.bias.detach() * factor, requires_grad=False)
    folded.eps = norm.eps * factor**2
    return twin, folded


def with_folded_neck(encoder: nn.Module) -> nn.Module:
    """The encoder with `NECK_FOLD` taken out of its neck, in a copy that shares all else.

    Encoders whose neck does not end in a bias-free convolution and a LayerNorm2d are returned as
    they are.
    """
    neck = getattr(encoder, "neck", None)
    if not isinstance(neck, nn.Sequential) or len(neck) < 2:
        return encoder
    if not isinstance(neck[-1], LayerNorm2d) or not _without_bias(neck[-2]):
        return encoder
    twin = copy(encoder)
    folded = _folded(neck, 1 / NECK_FOLD)
    twin._modules = {**encoder._modules, "neck": folded}
    return twin.eval()


def with_mask_gain(encoder: PromptEncoder) -> PromptEncoder:
    """The prompt encoder with `MASK_GAIN` in its mask branch, in a copy that shares all else."""
    twin = copy(encoder)
    folded = _folded(encoder.mask_downscaling, MASK_GAIN)
    twin._modules = {**encoder._modules, "mask_downscaling": folded}
    return twin


def _folded(layers: nn.Sequential, factor: float) -> nn.Sequential:
    """The layers with every convolution in front of a LayerNorm2d scaled."""
    out = list(layers)
    for i, (conv, norm) in enumerate(pairwise(list(layers))):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, LayerNorm2d):
            out[i : i + 2] = scaled(conv, norm, factor)
    return nn.Sequential(*out)


def _without_bias(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.bias is None
