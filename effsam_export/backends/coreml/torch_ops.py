"""Conversions of PyTorch operations that coremltools lacks or converts incorrectly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import interpolate

from effsam_export.backends.coreml import sdk as coreml_sdk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def register() -> None:
    """Register the conversions of this module in coremltools. Can be called again."""
    coreml_sdk.load()
    from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op

    register_torch_op(alias, override=True)
    register_torch_op(gelu, override=True)
    register_torch_op(upsample_bicubic2d, torch_alias=["upsample_bicubic2d.vec"], override=True)


def alias(context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools' own
    """Convert `aten.alias`, which is another name for the same tensor."""
    context.add(context[node.inputs[0]], torch_name=node.name)


def gelu(context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools' own
    """Convert GELU with `approximate` given as a keyword or as the second input.

    coremltools 9 reads only the second input. A traced program passes a keyword, so coremltools
    would convert a tanh GELU to an exact one.
    """
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs, _get_kwinputs
    from coremltools.converters.mil.mil import Builder

    x, *given = _get_inputs(context, node)
    named = _get_kwinputs(context, node, "approximate", default=[*given, "none"][:1])
    (approximate,) = (_value(a) for a in named)
    mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[approximate]
    context.add(Builder.gelu(x=x, mode=mode, name=node.name))


def upsample_bicubic2d(context: Any, node: Any) -> None:  # noqa: ANN401 - coremltools' own
    """Convert a bicubic resize to a fixed size to two matrix products.

    Given: ``y = upsample_bicubic2d(x, size, align_corners, scale_factors)``
    Result: ``y = rows @ x @ columns.T``, both matrices constant

    The resize is linear and separable, and `resize_matrix` returns PyTorch's weights. The products
    run on the Neural Engine, unlike the indexing that torch decomposes the resize to.
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
    """Return the constant value of an argument of a node."""
    if isinstance(argument, (list, tuple)):
        return [_value(a) for a in argument]
    return getattr(argument, "val", argument)


def resize_matrix(
    length: int, *, size: int | None, scale: float | None, align_corners: bool
) -> NDArray[np.float32]:
    """Return the matrix that resizes a column of `length` values like PyTorch's bicubic filter.

    Args:
        length: Number of input values.
        size: Number of output values, or None.
        scale: Output values per input value if `size` is None, else None.
        align_corners: As in `torch.nn.functional.interpolate`.

    Returns:
        float32, output values x `length`.
    """
    # Column i of the matrix is the resized unit vector i. One channel holds one unit vector.
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
