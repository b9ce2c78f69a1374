"""The supported ops by MIL's name. To add one: a function and a line in the `OPS` of its module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.backends.coreml.mil.ops import (
    activations,
    attention,
    compressed,
    convolution,
    elementwise,
    indexing,
    linear,
    normalise,
    pooling,
    reduce,
    resize,
    shapes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

OPS: dict[str, Callable[[Arguments], Tensor | Sequence[Tensor]]] = {
    **elementwise.OPS,
    **activations.OPS,
    **shapes.OPS,
    **indexing.OPS,
    **linear.OPS,
    **attention.OPS,
    **convolution.OPS,
    **pooling.OPS,
    **resize.OPS,
    **normalise.OPS,
    **reduce.OPS,
    **compressed.OPS,
}
