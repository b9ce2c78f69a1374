"""Cases of convolutions and pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from coremltools.converters.mil import Builder as mb
from torch.nn import functional

from tests.backends.coreml.mil.cases.case import Case
from tests.backends.coreml.mil.cases.values import ACCUMULATED, fixed, torched, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from tests.backends.coreml.mil.cases.case import Parameter

    Array = np.ndarray[Any, Any]


def convolved(
    title: str, shape: tuple[int, ...], weight: tuple[int, ...], **how: Parameter
) -> Case:
    """Compare a convolution with torch's after explicit padding."""
    groups, strides = how.get("groups", 1), how.get("strides", [1] * (len(shape) - 2))
    dilations = how.get("dilations", [1] * (len(shape) - 2))
    torch_pad = how.pop("torch_pad")

    def expect(x: Array) -> Array:
        function = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[x.ndim]
        padded = functional.pad(torch.from_numpy(x), torch_pad)
        kernel, bias = wide(fixed(*weight)), wide(fixed(weight[0]))
        return function(padded, kernel, bias, strides, 0, dilations, groups).numpy()

    return Case(
        kind="conv",
        title=title,
        shapes=(shape,),
        build=lambda t, x: mb.conv(
            x=x, weight=fixed(*weight).astype(t), bias=fixed(weight[0]).astype(t), **how
        ),
        expect=expect,
        half=ACCUMULATED,
    )


def spread(title: str, groups: int, **how: Parameter) -> Case:
    """Compare a transposed convolution with the gradient of a convolution."""
    weight = (4, 3, 3, 2)
    cut = how.get("pad", (0, 0, 0, 0))

    def expect(x: Array) -> Array:
        strides, dilations = how.get("strides", (1, 1)), how.get("dilations", (1, 1))
        full = [
            (size - 1) * s + (k - 1) * d + 1
            for size, k, s, d in zip(x.shape[2:], weight[2:], strides, dilations, strict=True)
        ]
        image = torch.zeros(
            (x.shape[0], 3 * groups, *full), dtype=torch.float64, requires_grad=True
        )
        result = functional.conv2d(image, wide(fixed(*weight)), None, strides, 0, dilations, groups)
        (spread_out,) = torch.autograd.grad(result, image, torch.from_numpy(x))
        whole_image = spread_out + wide(fixed(3 * groups)).reshape(1, -1, 1, 1)
        rows = slice(cut[0], full[0] - cut[1])
        return whole_image[:, :, rows, cut[2] : full[1] - cut[3]].numpy()

    return Case(
        kind="conv_transpose",
        title=title,
        shapes=((1, 4, 5, 3),),
        build=lambda t, x: mb.conv_transpose(
            x=x,
            weight=fixed(*weight).astype(t),
            bias=fixed(3 * groups).astype(t),
            groups=groups,
            **how,
        ),
        expect=expect,
        half=ACCUMULATED,
    )


CONVOLUTIONS = (
    convolved("valid", (1, 3, 7, 6), (4, 3, 3, 2), torch_pad=(0, 0, 0, 0)),
    convolved(
        "padded unevenly",
        (1, 3, 7, 6),
        (4, 3, 3, 3),
        pad_type="custom",
        pad=(2, 0, 1, 3),
        strides=(2, 1),
        torch_pad=(1, 3, 2, 0),
    ),
    convolved(
        "grouped and dilated",
        (2, 4, 9, 8),
        (6, 2, 3, 3),
        groups=2,
        dilations=(2, 1),
        pad_type="custom",
        pad=(2, 2, 1, 1),
        torch_pad=(1, 1, 2, 2),
    ),
    convolved(
        "depthwise",
        (1, 4, 6, 6),
        (4, 1, 3, 3),
        groups=4,
        pad_type="custom",
        pad=(1, 1, 1, 1),
        torch_pad=(1, 1, 1, 1),
    ),
    convolved(
        "same", (1, 3, 8, 7), (4, 3, 3, 4), pad_type="same", strides=(2, 2), torch_pad=(1, 2, 0, 1)
    ),
    convolved(
        "same lower",
        (1, 3, 8, 7),
        (4, 3, 3, 4),
        pad_type="same_lower",
        strides=(2, 2),
        torch_pad=(2, 1, 1, 0),
    ),
    convolved("over one axis", (2, 3, 9), (4, 3, 3), strides=(2,), torch_pad=(0, 0)),
    convolved("over three axes", (1, 2, 4, 5, 3), (3, 2, 2, 2, 2), torch_pad=(0,) * 6),
    spread("valid", 1, strides=(2, 2)),
    spread(
        "cut and grouped",
        2,
        strides=(2, 3),
        dilations=(1, 2),
        pad_type="custom",
        pad=(1, 0, 0, 2),
    ),
    Case(
        kind="conv_transpose",
        title="to a shape",
        shapes=((1, 4, 5, 3),),
        build=lambda t, x: mb.conv_transpose(
            x=x,
            weight=fixed(4, 3, 3, 3).astype(t),
            strides=(2, 2),
            pad_type="custom",
            pad=(1, 1, 1, 1),
            output_shape=(1, 3, 10, 6),
        ),
        expect=lambda x: functional.conv_transpose2d(
            torch.from_numpy(x), wide(fixed(4, 3, 3, 3)), stride=2, padding=1, output_padding=1
        ).numpy(),
        half=ACCUMULATED,
    ),
)


def pooled(
    kind: str, title: str, expect: Callable[[torch.Tensor], torch.Tensor], **how: Parameter
) -> Case:
    op = getattr(mb, kind)
    return Case(
        kind=kind,
        title=title,
        shapes=((1, 3, 7, 6),),
        build=lambda t, x: op(x=x, **how),
        expect=torched(expect),
        half=ACCUMULATED,
    )


POOLS = (
    pooled(
        "max_pool",
        "",
        lambda x: functional.max_pool2d(x, (3, 2), (2, 1)),
        kernel_sizes=(3, 2),
        strides=(2, 1),
        pad_type="valid",
    ),
    pooled(
        "max_pool",
        "padded",
        lambda x: functional.max_pool2d(functional.pad(x, (1, 1, 0, 1), value=-9.0), 3, 1),
        kernel_sizes=(3, 3),
        pad_type="custom",
        pad=(0, 1, 1, 1),
    ),
    pooled(
        "avg_pool",
        "padded",
        lambda x: functional.avg_pool2d(x, 3, 2, 1),
        kernel_sizes=(3, 3),
        strides=(2, 2),
        pad_type="custom",
        pad=(1, 1, 1, 1),
    ),
    pooled(
        "avg_pool",
        "of the inside",
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        kernel_sizes=(3, 3),
        strides=(2, 2),
        pad_type="custom",
        pad=(1, 1, 1, 1),
        exclude_padding_from_average=True,
    ),
)


CASES = (*CONVOLUTIONS, *POOLS)
