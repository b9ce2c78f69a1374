"""Fold powers of two into the layers around layer norms, so that squares do not overflow FP16.

Layer normalisation is scale-invariant. If the convolution before it is scaled by a power of two,
and eps by its square, the norm's output is the same; in FP32 it is equal bit for bit.
"""

from __future__ import annotations

from copy import copy, deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from effsam_export.models.sam.layers import LayerNorm2d

if TYPE_CHECKING:
    from effsam_export.models.sam.prompt_encoder import PromptEncoder

NECK_DIVISOR = 64.0
"""Divisor of the convolutions before the neck's two LayerNorm2d.

In MobileSAM their outputs reach 598, whose square overflows FP16 (65504). Divided by 64, squares
stay below 90, and variances stay far above FP16's smallest numbers.
"""

MASK_GAIN = 16.0
"""Factor of the convolutions before the norms of the mask prompt.

Without a mask, their input is zero, and the variance is that of the biases: 1.5e-5 in SAM's
decoder. Accelerators that flush numbers below 6.1e-5 to zero would divide by zero, and NaN would
reach every mask. With the gain the variance is 3.9e-3.
"""


def scale_conv_and_norm(
    conv: nn.Conv2d, norm: LayerNorm2d, factor: float
) -> tuple[nn.Conv2d, LayerNorm2d]:
    """Return copies of a convolution scaled by `factor` and of the norm after it.

    Given: ``y = conv(x)``, ``norm(y)`` with eps
    Result: ``y = factor * conv(x)``, ``norm(y)`` with eps * factor**2
    """
    scaled, scaled_norm = deepcopy(conv), deepcopy(norm)
    scaled.weight = nn.Parameter(conv.weight.detach() * factor, requires_grad=False)
    if conv.bias is not None:
        scaled.bias = nn.Parameter(conv.bias.detach() * factor, requires_grad=False)
    scaled_norm.eps = norm.eps * factor**2
    return scaled, scaled_norm


def fold_neck_scale(encoder: nn.Module) -> nn.Module:
    """Return a copy of the encoder with its neck divided by `NECK_DIVISOR`.

    The copy shares all other parameters. An encoder whose neck does not end in a convolution
    without bias and a LayerNorm2d is returned unchanged.
    """
    neck = getattr(encoder, "neck", None)
    if not isinstance(neck, nn.Sequential) or len(neck) < 2:
        return encoder
    if not isinstance(neck[-1], LayerNorm2d) or not _without_bias(neck[-2]):
        return encoder
    twin = copy(encoder)
    folded = _scaled(neck, 1 / NECK_DIVISOR)
    twin._modules = {**encoder._modules, "neck": folded}
    return twin.eval()


def fold_mask_gain(encoder: PromptEncoder) -> PromptEncoder:
    """Return a copy of the prompt encoder with `MASK_GAIN` in its mask branch."""
    twin = copy(encoder)
    folded = _scaled(encoder.mask_downscaling, MASK_GAIN)
    twin._modules = {**encoder._modules, "mask_downscaling": folded}
    return twin


def _scaled(layers: nn.Sequential, factor: float) -> nn.Sequential:
    """Return the layers with every convolution before a LayerNorm2d scaled."""
    out = list(layers)
    for i, (conv, norm) in enumerate(pairwise(list(layers))):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, LayerNorm2d):
            out[i : i + 2] = scale_conv_and_norm(conv, norm, factor)
    return nn.Sequential(*out)


def _without_bias(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.bias is None
