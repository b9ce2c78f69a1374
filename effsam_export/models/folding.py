"""Fold batch normalisation into the layer before it."""

from __future__ import annotations

from copy import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Return a copy of a module in eval mode with its batch norms folded.

    Given: children ``conv`` (Conv2d or Linear) and ``bn``, registered one after the other
    Result: ``conv`` with ``bn`` in its weight and bias, and an identity instead of ``bn``

    The copy shares all other parameters with the module, which is unchanged. Children must be
    registered in the order in which they are called. All encoders here do so, and each is tested
    for equal outputs. A batch norm after any other layer is not folded.
    """
    twin = copy(module)
    children = {name: fold_batch_norms(child) for name, child in module.named_children()}
    for (first, conv), (second, bn) in pairwise(list(module.named_children())):
        fused = _fused(conv, bn)
        if fused is not None:
            children[first], children[second] = fused, nn.Identity()
    twin._modules = {**module._modules, **children}
    return twin


def _fused(layer: nn.Module, bn: nn.Module) -> nn.Module | None:
    """Return both layers as one, or None where they cannot be fused."""
    if not isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d)) or bn.running_mean is None:
        return None
    if isinstance(layer, nn.Conv2d) and bn.num_features == layer.out_channels:
        return fuse_conv_bn_eval(layer.eval(), bn.eval())
    if isinstance(layer, nn.Linear) and bn.num_features == layer.out_features:
        return fuse_linear_bn_eval(layer.eval(), bn.eval())
    return None
