"""Batch normalisation folded into the layer in front of it: fewer operators, the same numbers."""

from __future__ import annotations

from copy import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """A twin of a module in eval mode without the batch norms that can be folded away.

    Given: children ``conv`` (Conv2d or Linear) and ``bn``, registered one after the other
    Result: ``conv`` with ``bn`` in its weight and bias, and an identity in the place of ``bn``

    The twin shares every other parameter with the module, which stays as it is. The rule reads
    the order of registration, so it holds for modules that call such children in that order, as
    all encoders here do; each is tested for equal outputs. A batch norm behind anything else is
    left alone.
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
    """Both layers as one, or None where they cannot be."""
    if not isinstance(bn, (nn.BatchNorm1d, nn.BatchNorm2d)) or bn.running_mean is None:
        return None
    if isinstance(layer, nn.Conv2d) and bn.num_features == layer.out_channels:
        return fuse_conv_bn_eval(layer.eval(), bn.eval())
    if isinstance(layer, nn.Linear) and bn.num_features == layer.out_features:
        return fuse_linear_bn_eval(layer.eval(), bn.eval())
    return None
