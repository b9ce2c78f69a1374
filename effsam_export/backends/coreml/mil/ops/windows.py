"""Strides, dilations and padding, which convolutions and pools share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.backends.coreml.mil.arguments import Arguments

PAD_TYPES = ("valid", "custom", "same", "same_lower")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Strides, dilations and padding of a window, one value per spatial axis.

    Attributes:
        strides: Steps of the window.
        dilations: Distances of its elements.
        before, after: Padding at the two ends of each axis.
    """

    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]

    def as_torch(self) -> list[int]:
        """Return the padding in the order of `functional.pad`: last axis first."""
        pairs = zip(reversed(self.before), reversed(self.after), strict=True)
        return [size for pair in pairs for size in pair]


def window(args: Arguments, sizes: Sequence[int], kernel: Sequence[int]) -> Window:
    """Read `strides`, `dilations`, `pad_type` and `pad`.

    Args:
        args: Operands of the op.
        sizes: Spatial sizes of the image.
        kernel: Sizes of the window.
    """
    ones = [1] * len(sizes)
    strides = args.integers("strides", ones)
    dilations = args.integers("dilations", ones)
    pad_type = args.choice("pad_type", PAD_TYPES, "valid")
    # coremltools writes a `pad` of zeros for types that do not use it.
    pad = args.integers("pad", [0, 0] * len(sizes))
    if not len(strides) == len(dilations) == len(sizes) == len(kernel) == len(pad) / 2:
        raise args.refuse(f"has strides, dilations or padding for other than {len(sizes)} axes")
    if min(*strides, *dilations) < 1 or min(pad) < 0:
        raise args.refuse("has a stride or dilation below 1, or a padding below 0")
    if pad_type == "custom":
        before, after = pad[::2], pad[1::2]
    elif any(pad):
        raise args.refuse(f"has the padding {pad} with the type `{pad_type}`")
    else:
        before, after = _automatic(pad_type, sizes, kernel, strides, dilations)
    return Window(strides=strides, dilations=dilations, before=before, after=after)


def _automatic(
    pad_type: str,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Return the padding of `valid`, `same` (odd one after) or `same_lower` (odd one before)."""
    totals = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        totals.append(max(0, (-(-size // stride) - 1) * stride + reach - size))
    if pad_type == "valid":
        totals = [0] * len(sizes)
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (more, less) if pad_type == "same_lower" else (less, more)
