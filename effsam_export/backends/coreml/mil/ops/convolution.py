"""Convolutions over one to three axes, accumulated in FP32 with the bias and rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from effsam_export.backends.coreml.mil.ops.windows import window
from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

CONVS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


def _operands(args: Arguments) -> tuple[list[Tensor], int]:
    x = args.tensor("x")
    weight, bias = args.tensor("weight", x), args.optional("bias", x)
    axes = x.ndim - 2
    if not 1 <= axes <= 3 or weight.ndim != x.ndim:
        raise args.refuse(f"has a weight {list(weight.shape)} for an input {list(x.shape)}")
    return ([x, weight] if bias is None else [x, weight, bias]), axes


def _conv(args: Arguments) -> Tensor:
    operands, axes = _operands(args)
    x, weight = operands[:2]
    moves = window(args, x.shape[2:], weight.shape[2:])
    groups = args.integer("groups", 1)
    # torch pads inside a convolution only equally at both ends.
    even = moves.before == moves.after
    inside = moves.before if even else 0
    outside = [] if even else moves.as_torch()

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        padded = functional.pad(x, outside) if outside else x
        result: Tensor = CONVS[axes - 1](
            padded, weight, bias, moves.strides, inside, moves.dilations, groups
        )
        return result

    return in_fp32(convolve, *operands)


def _conv_transpose(args: Arguments) -> Tensor:
    operands, axes = _operands(args)
    x, weight = operands[:2]
    if args.choice("pad_type", ("valid", "custom", "same"), "valid") == "same":
        raise args.refuse("has the padding `same`, whose alignment is not documented")
    moves = window(args, x.shape[2:], weight.shape[2:])
    groups = args.integer("groups", 1)
    # Padding is cropped from the full result. An `output_shape` may crop less at the end.
    full = [
        (size - 1) * stride + (width - 1) * dilation + 1
        for size, width, stride, dilation in zip(
            x.shape[2:], weight.shape[2:], moves.strides, moves.dilations, strict=True
        )
    ]
    ends = [size - after for size, after in zip(full, moves.after, strict=True)]
    output_shape = args.integers("output_shape", []) if args.has("output_shape") else None
    extra = [0] * axes
    if output_shape is not None:
        starts = zip(moves.before, output_shape[2:], strict=True)
        new_ends = [before + size for before, size in starts]
        extra = [max(0, new - size) for new, size in zip(new_ends, full, strict=True)]
        added = [new - end for new, end in zip(new_ends, ends, strict=True)]
        if any(not 0 <= more < s for more, s in zip(added, moves.strides, strict=True)):
            raise args.refuse(
                f"has an `output_shape` {output_shape} that its padding does not allow"
            )
        ends = new_ends

    def spread(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        result: Tensor = TRANSPOSED[axes - 1](
            x, weight, bias, moves.strides, 0, extra, groups, moves.dilations
        )
        for axis, (before, end) in enumerate(zip(moves.before, ends, strict=True), start=2):
            result = result.narrow(axis, before, end - before)
        return result

    return in_fp32(spread, *operands)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
}
