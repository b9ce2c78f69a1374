"""Scale an image from the centre of its top left pixel, as OpenCV's `warpAffine` does.

Pixel (x, y) of the result has the value at (x / scale, y / scale), bilinear between pixels, and
zero outside. There is no antialiasing, and no shift by half a pixel.
Source: AnyLabeling, `services/auto_labeling/sam_onnx.py`; rembg, `sessions/sam.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Float32


def scale_of(size: tuple[int, int], frame: Size) -> float:
    """Return the factor by which an image of (height, width) fits a frame."""
    height, width = sides(frame)
    return min(width / size[1], height / size[0])


def fitted(image: NDArray[np.uint8], frame: Size) -> Float32:
    """Scale an image uint8 HxWx3 to fit a frame.

    Returns:
        Whole numbers 0 to 255 as float32, height x width of the frame x 3; black where the image
        has no pixels.
    """
    scale = scale_of((image.shape[0], image.shape[1]), frame)
    planes = warped(image.transpose(2, 0, 1).astype(np.float32), scale, sides(frame))
    return np.ascontiguousarray(np.rint(planes).transpose(1, 2, 0))


def restored(planes: Float32, original: tuple[int, int]) -> Float32:
    """Scale logits KxHxW of a frame to KxhxW of the image that `fitted` scaled to that frame."""
    scale = scale_of(original, (planes.shape[1], planes.shape[2]))
    return warped(planes, 1 / scale, original)


def warped(planes: Float32, scale: float, size: tuple[int, int]) -> Float32:
    """Scale float32 KxHxW by a factor, into (height, width)."""
    for axis, new in ((2, size[1]), (1, size[0])):
        old = planes.shape[axis]
        at = np.arange(new) / scale
        low = np.floor(at).astype(np.int64)
        part = (at - low).astype(np.float32)
        before = np.where(low < old, 1 - part, 0).astype(np.float32)
        after = np.where(low + 1 < old, part, 0).astype(np.float32)
        if axis == 1:
            before, after = before[:, None], after[:, None]
        last = np.minimum(low, old - 1), np.minimum(low + 1, old - 1)
        planes = np.take(planes, last[0], axis) * before + np.take(planes, last[1], axis) * after
    return planes
