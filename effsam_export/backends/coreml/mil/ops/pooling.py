"""Max and average pooling over one to three axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional

from effsam_export.backends.coreml.mil.ops.windows import Window, window
from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

AVERAGES = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
MAXIMA = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


def _window(args: Arguments, x: Tensor) -> tuple[list[int], Window]:
    kernel = args.integers("kernel_sizes")
    if not 1 <= x.ndim - 2 <= 3:
        raise args.refuse(f"has an input {list(x.shape)} of unsupported rank")
    if args.flag("ceil_mode", False):
        raise args.refuse("has `ceil_mode`, which is not supported")
    return kernel, window(args, x.shape[2:], kernel)


def _max_pool(args: Arguments) -> Tensor:
    x = args.tensor("x")
    kernel, moves = _window(args, x)

    def pool(x: Tensor) -> Tensor:
        # Padding is never the maximum.
        padded = functional.pad(x, moves.as_torch(), value=-math.inf)
        result: Tensor = MAXIMA[x.ndim - 3](padded, kernel, moves.strides)
        return result

    return in_fp32(pool, x)


def _avg_pool(args: Arguments) -> Tensor:
    x = args.tensor("x")
    kernel, moves = _window(args, x)
    only_inside = args.flag("exclude_padding_from_average", False)

    def average(x: Tensor) -> Tensor:
        padded = functional.pad(x, moves.as_torch())
        result: Tensor = AVERAGES[x.ndim - 3](padded, kernel, moves.strides)
        return result

    def pool(x: Tensor) -> Tensor:
        if only_inside:
            # The average of ones is the share of the window inside the image.
            return average(x) / average(x.new_ones(x.shape))
        return average(x)

    return in_fp32(pool, x)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "avg_pool": _avg_pool,
    "max_pool": _max_pool,
}
