"""Operations of PyTorch that coremltools does not know or gets wrong, in terms of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import interpolate

from effsam_export.backends.coreml import sdk as coreml_sdk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def register() -> None:
    """Teach coremltools the operations of this file; a second call changes nothing."""
    coreml_sdk.load()
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    register_torch_op(alias, override=True)
    register_torch_op(gelu, override=True)
    register_torch_op(upsample_bicubic2d, torch_alias=["upsample_bicubic2d.vec"], override=True)


def alias(context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools' own
    """Another name for a tensor."""
    context.add(context[node.inputs[0]], torch_name=node.name)


def gelu(context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools' own
    """GELU, exact or by tanh.

    coremltools 9 reads `approximate` as the second input only. A traced program has it as a
    keyword, which is dropped: the thirty of EfficientViT-SAM's encoder became exact ones.
    """
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs
    from coremltools.converters.mil.mil import Builder

    x, *given = _get_inputs(context, node)
    named = _get_kwinputs(context, node, "approximate", default=[*given, "none"][:1])
    (approximate,) = (_value(a) for a in named)
    mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[approximate]
    context.add(Builder.gelu(x=x, mode=mode, name=node.name))


def upsample_bicubic2d(context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools' own
    """A bicubic resize to a fixed size as two matrix products.

    Given: ``y = upsample_bicubic2d(x, size, align_corners, scale_factors)``
    Result: ``y = rows @ x @ columns.T``, both matrices constant

    The resize is linear and separable; `resize_matrix` has PyTorch's own weights. In place of the
    indexing that torch decomposes it to, this runs on the Neural Engine.
    """
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs
    from coremltools.converters.mil.mil import Builder

    x, *arguments = _get_inputs(context, node)
    size, align_corners, scale_factors = ([*(_value(a) for a in arguments), None])[:3]
    rows, columns = (
        resize_matrix(
            int(x.shape[axis]),
            size=None if size is None else int(size[i]),
            scale=None if scale_factors is None else float(scale_factors[i]),
            align_corners=bool(align_corners),
        )
        for i, axis in enumerate((2, 3))
    )
    tall = Builder.matmul(x=rows[None, None], y=x)
    context.add(Builder.matmul(x=tall, y=columns.T[None, None].copy(), name=node.name))


def _value(argument: Any) -> Any:  # noqa: ANN401
    """The constant behind an argument of a node."""
    if isinstance(argument, (list, tuple)):
        return [_value(a) for a in argument]
    return getattr(argument, "val", argument)


def resize_matrix(
    length: int, *, size: int | None, scale: float | None, align_corners: bool
) -> NDArray[np.float32]:
    """The matrix that resizes a column of `length` values as PyTorch's bicubic filter does.

    Args:
        length: Values before.
        size: Values after, or None.
        scale: Values after per value before, where the size follows from it, or None.
        align_corners: As PyTorch means it.

    Returns:
        float32, values after x `length`.
    """
    # What becomes of each unit column: `length` channels of one column each.
    columns = torch.eye(length).reshape(1, length, length, 1)
    resized = interpolate(
        columns,
        size=None if size is None else (size, 1),
        scale_factor=None if scale is None else (scale, 1.0),
        mode="bicubic",
        align_corners=align_corners,
    )
    matrix: NDArray[np.float32] = resized[0, :, :, 0].T.contiguous().numpy()
    return matrix
