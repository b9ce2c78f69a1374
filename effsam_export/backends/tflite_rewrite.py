"""Given a traced program; Result: the same program without what TFLite runs badly.

Bicubic interpolation becomes a thousand gathered rows in TFLite (GATHER_ND and BROADCAST_TO, which
the GPU delegate does not have). It is linear and separable, so two products with constant matrices
say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, fx

BICUBIC = torch.ops.aten.upsample_bicubic2d.vec


def apply(module: fx.GraphModule) -> int:
    """Replace every bicubic interpolation of a graph, in place; returns how many there were."""
    nodes = [n for n in module.graph.nodes if n.target is BICUBIC]
    for i, node in enumerate(nodes):
        image, size, align_corners, factors = (*node.args, None)[:4]
        h, w = image.meta["val"].shape[-2:]
        out_h, out_w = node.meta["val"].shape[-2:]
        assert size is None or tuple(size) == (out_h, out_w)
        assert factors is None or tuple(factors) == (out_h / h, out_w / w)
        constants = {
            f"bicubic_{i}_columns": weights(w, out_w, align_corners=align_corners),
            f"bicubic_{i}_rows": weights(h, out_h, align_corners=align_corners),
        }
        with module.graph.inserting_before(node):
            x = image
            # Columns, then rows: each time from the right, where TFLite wants its constants.
            for name, matrix in constants.items():
                module.register_buffer(name, matrix)
                product = (x, module.graph.get_attr(name))
                x = module.graph.call_function(torch.ops.aten.matmul.default, product)
                x = module.graph.call_function(torch.ops.aten.transpose.int, (x, 2, 3))
        node.replace_all_uses_with(x)
        module.graph.erase_node(node)
    if nodes:
        module.recompile()
    return len(nodes)


def weights(length: int, out: int, *, align_corners: bool) -> Tensor:
    """What bicubic interpolation does along one axis, as a matrix `length` x `out`.

    Taken from torch's own kernel: it is applied to every unit vector.
    """
    units = torch.eye(length).reshape(1, length, length, 1)
    size: Sequence[int] = (out, 1)
    stretched: Tensor = BICUBIC(units, size, align_corners, None)
    return stretched.reshape(length, out).contiguous()
