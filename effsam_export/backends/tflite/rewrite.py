"""Replace operations of a traced program that litert-torch converts to unsupported operators.

Bicubic interpolation would become gathers of pixels (GATHER_ND and BROADCAST_TO), which the GPU
delegate does not support. It is linear and separable, so two products with constant matrices
replace it. `topk` would become STABLEHLO_SORT, which LiteRT cannot run; TOPK_V2 replaces it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, fx

BICUBIC = torch.ops.aten.upsample_bicubic2d.vec
TOPK = torch.ops.aten.topk.default


def apply(module: fx.GraphModule) -> tuple[str, ...]:
    """Rewrite a graph in place and return the names of the replaced nodes."""
    found = [n for n in module.graph.nodes if n.target in (BICUBIC, TOPK)]
    for node in found:
        rewrite = _bicubic if node.target is BICUBIC else _topk
        with module.graph.inserting_before(node):
            result = rewrite(module, node)
        node.replace_all_uses_with(result)
        module.graph.erase_node(node)
    if found:
        module.recompile()
    return tuple(n.name for n in found)


def _bicubic(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Replace a bicubic resize by two products with the constant on the right, as TFLite needs."""
    x, size, align_corners, factors = (*node.args, None)[:4]
    assert isinstance(x, torch.fx.Node)
    h, w = x.meta["val"].shape[-2:]
    out_h, out_w = node.meta["val"].shape[-2:]
    # Without a size, torch places samples by the factors, which must then be the ratio of sizes.
    assert size is not None or factors == [out_h / h, out_w / w]
    for axis, length, out in (("columns", w, out_w), ("rows", h, out_h)):
        name = f"{node.name}_{axis}"
        module.register_buffer(name, weights(length, out, align_corners=bool(align_corners)))
        product = (x, module.graph.get_attr(name))
        x = module.graph.call_function(torch.ops.aten.matmul.default, product)
        x = module.graph.call_function(torch.ops.aten.transpose.int, (x, 2, 3))
    return x


def weights(length: int, out: int, *, align_corners: bool) -> Tensor:
    """Return the matrix `length` x `out` of bicubic interpolation along one axis.

    Column values are torch's own, from interpolating every unit vector.
    """
    units = torch.eye(length).reshape(1, length, length, 1)
    stretched: Tensor = BICUBIC(units, (out, 1), align_corners, None)
    return stretched.reshape(length, out).contiguous()


def _topk(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Replace topk along the last axis. `torch.ops.tfl` exists after litert-torch is imported."""
    x, k, dim, largest = (*node.args, -1, True)[:4]
    assert isinstance(x, torch.fx.Node)
    assert largest
    assert dim in (-1, x.meta["val"].ndim - 1)
    return module.graph.call_function(torch.ops.tfl.topk_v2.default, (x, k))
