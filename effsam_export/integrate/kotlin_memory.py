"""Peak memory of generated Kotlin: the arrays that are alive at once, from the size of an image.

The arrays are those of the templates `Resizing.kt`, `Segmenter.kt` and `AndroidImages.kt`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.integrate.contract import EMBEDDINGS
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from effsam_export.integrate.contract import Contract

RGB, ARGB, FLOAT = 3, 4, 4
"""Bytes of a pixel as an image and as a bitmap, and of a number."""
CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """Bytes of the arrays that are alive at once, without those of the runtime.

    Attributes:
        read: While a bitmap becomes an image.
        embed: While an image is preprocessed and encoded; the image is one of the arrays.
        predict: While masks of a prompt are made; the embeddings are one of the arrays.
    """

    read: int
    embed: int
    predict: int


def peak_memory(contract: Contract, size: tuple[int, int]) -> PeakMemory:
    """Return the peak memory for an image.

    Args:
        contract: The contract that the code is generated from.
        size: (height, width) of the image in pixels.
    """
    area = math.prod(size)
    embeddings = FLOAT * math.prod(int(s) for s in contract.decoder.inputs[EMBEDDINGS])
    tensor = FLOAT * CHANNELS * math.prod(sides(contract.image_size))
    # A batch holds copies of the tensor, and the embeddings of all of them.
    slots = contract.batch if contract.batch > 1 else 0
    encoded = tensor * (1 + slots) + embeddings * (1 + slots)
    return PeakMemory(
        read=(ARGB + RGB) * area,
        embed=RGB * area + max(tensor + _resizing(contract, size), encoded),
        predict=embeddings + _masks(contract, size),
    )


def _resizing(contract: Contract, size: tuple[int, int]) -> int:
    """Return the bytes of the arrays between an image and the encoder's tensor."""
    height, width = size
    inside = sides(contract.image_size)
    if contract.pad_value is None:
        # One channel as numbers, its rows resized, and both sides resized.
        return FLOAT * (height * width + height * inside[1] + math.prod(inside))
    new_height, new_width = _fitted(size, inside)
    rows_first = height - new_height > max(0, 2 * (width - new_width))
    between = new_height * width if rows_first else height * new_width
    return RGB * (between + new_height * new_width)


def _masks(contract: Contract, size: tuple[int, int]) -> int:
    """Return the bytes of the arrays between a decoder's logits and the masks."""
    height, width = size
    area = height * width
    low = sides(contract.low_res_size)
    if contract.upscale == "bicubic":
        before = low[0] * width
    else:
        whole = sides(contract.prompt_size)
        frame = _fitted(size, whole) if contract.pad_value is not None else whole
        before = math.prod(whole) + math.prod(frame) + frame[0] * width
    logits = FLOAT * math.prod(low)
    count = max(len(contract.multimask), len(contract.single))
    decoded = logits * (max((*contract.single, *contract.multimask)) + 1 + count)
    # The last mask is made while the others are kept.
    last = max(FLOAT * (before + area), FLOAT * area + area)
    return decoded + (count - 1) * area + last


def _fitted(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the largest image of these proportions that fits a frame."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width
