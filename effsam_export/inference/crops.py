"""The crops of automatic mask generation.

Source: segment-anything (dca509f), `utils/amg.py`, `generate_crop_boxes` and
`is_box_near_crop_edge`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EDGE_PX = 20
"""A box so near to the edge of a crop was cut by it, unless it is the image's edge too."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of an image.

    Attributes:
        box: (x0, y0, x1, y1) in pixels; x1 and y1 are the first ones outside.
        layer: 0 for the whole image; layer n has 2**n crops along each side.
    """

    box: Box
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        x0, y0, x1, y1 = self.box
        return y1 - y0, x1 - x0


def crops(size: tuple[int, int], layers: int, overlap: float) -> tuple[Crop, ...]:
    """Return the whole image and the crops of further layers, row by row within a layer.

    Args:
        size: (height, width) of the image.
        layers: Number of layers beside the whole image.
        overlap: Overlap of neighbours in the first layer, as a share of the image's shorter side;
            it is halved from layer to layer.
    """
    height, width = size
    found = [Crop(box=(0, 0, width, height), layer=0)]
    for layer in range(1, layers + 1):
        number = 2**layer
        shared = int(overlap * min(height, width) * (2 / number))
        tall, wide = (math.ceil((shared * (number - 1) + side) / number) for side in size)
        lefts = [(wide - shared) * i for i in range(number)]
        tops = [(tall - shared) * i for i in range(number)]
        # The image may have fewer pixels than crops.
        found += [
            Crop(box=(x, y, min(x + wide, width), min(y + tall, height)), layer=layer)
            for x in lefts
            for y in tops
            if x < width and y < height
        ]
    return tuple(found)


def is_cut(box: Box, crop: Crop, size: tuple[int, int]) -> bool:
    """Return whether a mask ends near an edge of its crop that is no edge of the image.

    Args:
        box: (x0, y0, x1, y1) of its first and last pixels, in the image.
        crop: The crop.
        size: (height, width) of the image.
    """
    edges = (0, 0, size[1], size[0])
    return any(
        abs(side - edge) <= EDGE_PX < abs(side - outer)
        for side, edge, outer in zip(box, crop.box, edges, strict=True)
    )
