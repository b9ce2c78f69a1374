"""Resizes of the last two axes. Interpolation is separable and rounded once after both axes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

MODES = (
    "STRICT_ALIGN_CORNERS",
    "ALIGN_CORNERS",
    "DEFAULT",
    "OFFSET_CORNERS",
    "UNALIGN_CORNERS",
)


def sample_points(size: int, new_size: int, mode: str) -> Tensor:
    """Return the source coordinates of the samples of a resized axis (float64).

    The formulas are those of coremltools' `resize_bilinear`.

    Args:
        size: Size of the axis before.
        new_size: Size of the axis after.
        mode: One of `MODES`.
    """
    steps = torch.arange(new_size, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if new_size == 1:
            middle = (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
            return torch.full((1,), middle, dtype=torch.float64)
        points = steps * (size - 1) / (new_size - 1)
    elif mode == "DEFAULT":
        points = steps * size / new_size
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / new_size
        points = 0.5 * delta + steps * delta
    else:
        points = (steps + 0.5) * size / new_size - 0.5
    return points.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, new_size: int, mode: str) -> Tensor:
    size = x.shape[axis]
    if mode != "DEFAULT" and size == new_size:
        return x
    points = sample_points(size, new_size, mode)
    low = points.floor().long()
    high = (low + 1).clamp(max=size - 1)
    share = (points - low).to(x.dtype)
    shape = [1] * x.ndim
    shape[axis] = new_size
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share.reshape(shape))


def _bilinear(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    return in_fp32(
        lambda wide: _linear(
            _linear(wide, wide.ndim - 2, height, mode), wide.ndim - 1, width, mode
        ),
        x,
    )


def _scaled(args: Arguments, x: Tensor) -> tuple[int, int]:
    """Return height and width after scaling by `scale_factor_*`."""
    if x.ndim < 3:
        raise args.refuse(f"has an input {list(x.shape)} of unsupported rank")
    height = x.shape[-2] * args.number("scale_factor_height", 1.0)
    width = x.shape[-1] * args.number("scale_factor_width", 1.0)
    return int(height), int(width)


def _target(args: Arguments, x: Tensor) -> tuple[int, int]:
    if x.ndim < 3:
        raise args.refuse(f"has an input {list(x.shape)} of unsupported rank")
    return args.integer("target_size_height", 1), args.integer("target_size_width", 1)


def _upsample_bilinear(args: Arguments) -> Tensor:
    x = args.tensor("x")
    height, width = _scaled(args, x)
    corners = args.flag("align_corners", True)
    half = args.flag("half_pixel_centers", not corners)
    if corners and half:
        raise args.refuse("has both `align_corners` and `half_pixel_centers`")
    mode = "UNALIGN_CORNERS" if half else "STRICT_ALIGN_CORNERS" if corners else "DEFAULT"
    return _bilinear(x, height, width, mode)


def _resize_bilinear(args: Arguments) -> Tensor:
    x = args.tensor("x")
    height, width = _target(args, x)
    return _bilinear(x, height, width, args.choice("sampling_mode", MODES, "DEFAULT"))


def _nearest(sizes: Callable[[Arguments, Tensor], tuple[int, int]], args: Arguments) -> Tensor:
    x = args.tensor("x")
    height, width = sizes(args, x)
    if height % x.shape[-2] or width % x.shape[-1]:
        # The nearest neighbour is documented for integer factors only.
        raise args.refuse(
            f"resizes {list(x.shape[-2:])} to {[height, width]}, which is not an integer factor"
        )
    rows = x.repeat_interleave(height // x.shape[-2], -2)
    return rows.repeat_interleave(width // x.shape[-1], -1)


def _resize(args: Arguments) -> Tensor:
    """Resize to the last two sizes of `shape` (iOS 17); a zero keeps the size."""
    x, shape = args.tensor("x"), args.integers("shape")
    if args.integer("resized_dims") != 2 or len(shape) < 2:
        raise args.refuse("does not resize exactly two axes")
    height, width = (size or old for size, old in zip(shape[-2:], x.shape[-2:], strict=True))
    mode = args.choice("sampling_mode", MODES, "DEFAULT")
    args.choice("interpolation_mode", ("LINEAR",), "LINEAR")
    return _bilinear(x, height, width, mode)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": partial(_nearest, _target),
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": partial(_nearest, _scaled),
}
