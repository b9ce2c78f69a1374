"""Read the mask of a prompt: logits of an earlier answer, or a binary mask of the image's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.errors import PromptError, shown
from effsam_export.imaging import arrays
from effsam_export.imaging.decode import read_image
from effsam_export.imaging.images import upscale_masks
from effsam_export.imaging.regions import bounding_box
from effsam_export.spec.sizes import sides
from effsam_export.util.files import fault_of_file
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.imaging.images import Frame
    from effsam_export.spec.prompts import MaskSet
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Array, Float32

PICTURES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
LOGIT = 10.0
"""Logit of a pixel of a binary mask: SAM 2 (facebookresearch/sam2, `modeling/sam2_base.py`,
`_use_mask_as_output`) feeds a given mask as 20 m - 10."""
HALF = 127
"""Greatest grey value outside the mask, in a picture of more than two values."""
HINT = "give a file written by `effsam run --masks`"
BINARY_HINT = "give a mask of the image's size with two values: a picture, or a .npy file"


@dataclass(frozen=True, kw_only=True)
class MaskPrompt:
    """The mask of a prompt.

    Attributes:
        logits: SxS float32 in the model's frame.
        box: (x0, y0, x1, y1) of the mask's extent in pixels of the image.
    """

    logits: Float32
    box: tuple[float, float, float, float]


def load(path: Path, frame: Frame, masks: MaskSet) -> MaskPrompt:
    """Read a mask for a prompt on an image.

    Args:
        path: A `.npz` file of `effsam run --masks`, a `.npy` file with a binary mask or logits, or
            a picture.
        frame: Sizes of the image in the model's frames.
        masks: The model's masks.

    Raises:
        PromptError: The file cannot be read, holds no such mask, or the mask is empty.
    """
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        mask = _picture(path, frame.original)
        return _of_mask(path, mask, frame, masks)
    if suffix == ".npy":
        values = _values(path)
        low_res = sides(masks.low_res_size)
        if values.shape == low_res and values.dtype.kind == "f" and not _is_binary(values):
            return _of_logits(path, _finite(path, values), frame, masks)
        return _of_mask(path, _binary(path, values, frame.original, low_res), frame, masks)
    return _of_logits(path, load_mask_input(path, masks.low_res_size), frame, masks)


def to_logits(mask: NDArray[np.bool_], frame: Frame, low_res: Size) -> Float32:
    """Return a binary mask of an image as logits in the model's frame.

    Each logit is `LOGIT` times the share of its area inside the mask less that outside; padding is
    outside.

    Args:
        mask: Bool HxW at original size.
        frame: Sizes of the image in the model's frames.
        low_res: Size of the logits.
    """
    share = mask.astype(np.float64)
    height, width = sides(low_res)
    frame_height, frame_width = sides(frame.prompt_size)
    scales = (
        (height, frame_height * frame.original[0] / frame.prompt[0]),
        (width, frame_width * frame.original[1] / frame.prompt[1]),
    )
    for axis, (cells, reach) in enumerate(scales):
        share = _averaged(share, np.linspace(0, reach, cells + 1), axis)
    return np.asarray((2 * share - 1) * LOGIT, dtype=np.float32)


def _averaged(
    values: NDArray[np.float64], edges: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """Return means of values between edges along an axis; beyond the last value they are 0."""
    moved = np.moveaxis(values, axis, 0)
    sums = np.zeros((len(moved) + 2, *moved.shape[1:]))
    np.cumsum(moved, axis=0, out=sums[1:-1])
    sums[-1] = sums[-2]
    at = np.minimum(edges, len(moved))
    whole = at.astype(np.int64)
    part = (at - whole).reshape(-1, *[1] * (moved.ndim - 1))
    until = sums[whole] + part * (sums[whole + 1] - sums[whole])
    return np.moveaxis(np.diff(until, axis=0) / (edges[1] - edges[0]), 0, axis)


def _of_mask(path: Path, mask: NDArray[np.bool_], frame: Frame, masks: MaskSet) -> MaskPrompt:
    logits = to_logits(mask, frame, masks.low_res_size)
    return MaskPrompt(logits=logits, box=_extent(path, mask))


def _of_logits(path: Path, logits: Float32, frame: Frame, masks: MaskSet) -> MaskPrompt:
    mask = upscale_masks(logits[None], frame, masks)[0] > masks.threshold
    return MaskPrompt(logits=logits, box=_extent(path, np.asarray(mask)))


def _extent(path: Path, mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    box = bounding_box(mask)
    if box is None:
        raise PromptError(f"mask file `{path}` is empty: it has no pixel of an object")
    return box[0], box[1], box[2] + 1, box[3] + 1


def _picture(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the binary mask of a picture."""
    if fault := fault_of_file(path):
        raise PromptError(f"mask file `{path}` {fault}", hint=HINT)
    pixels = read_image(path).pixels
    _check_size(path, pixels.shape[:2], size)
    codes = pixels.astype(np.int64) @ np.asarray([1 << 16, 1 << 8, 1])
    found = np.unique(codes)
    if len(found) <= 2:
        return np.asarray((codes == found[-1]) & (codes > 0))
    if (pixels == pixels[:, :, :1]).all():
        return np.asarray(pixels[:, :, 0] > HALF)
    raise PromptError(f"mask file `{path}` has {len(found)} colours, want two", hint=BINARY_HINT)


def _values(path: Path) -> Array:
    """Return the array of a .npy file, without leading axes of length 1."""
    if fault := fault_of_file(path):
        raise PromptError(f"mask file `{path}` {fault}", hint=HINT)
    try:
        with path.open("rb") as file:
            content = file.read(arrays.MAX_BYTES + 1)
        if len(content) > arrays.MAX_BYTES:
            raise ValueError(f"it has more than {arrays.MAX_BYTES} bytes")
        values = arrays.read_npy(content)
    except (OSError, ValueError) as error:
        raise PromptError(
            f"mask file `{path}` cannot be read: {shown(reason_of(error))}", hint=BINARY_HINT
        ) from error
    while values.ndim > 2 and values.shape[0] == 1:
        values = values[0]
    return values


def _binary(
    path: Path, values: Array, size: tuple[int, int], low_res: tuple[int, int]
) -> NDArray[np.bool_]:
    if values.ndim != 2 or values.shape not in (size, low_res):
        raise PromptError(
            f"mask file `{path}` holds an array of shape {list(values.shape)}, want "
            f"{size[0]}x{size[1]} as the image",
            hint=BINARY_HINT,
        )
    _check_size(path, values.shape, size)
    if not _is_binary(values):
        raise PromptError(f"mask file `{path}` has more than two values", hint=BINARY_HINT)
    return np.asarray((values == values.max()) & (values > 0))


def _is_binary(values: Array) -> bool:
    """Return whether an array has at most two values, all of them finite."""
    if not values.size or not np.isfinite(values).all():
        return False
    least, greatest = values.min(), values.max()
    return bool(((values == least) | (values == greatest)).all())


def _check_size(path: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != size:
        raise PromptError(
            f"mask file `{path}` has {found[1]}x{found[0]} pixels, the image {size[1]}x{size[0]}",
            hint=BINARY_HINT,
        )


def _finite(path: Path, values: Array) -> Float32:
    try:
        return arrays.to_float32(values)
    except ValueError as error:
        raise PromptError(f"mask file `{path}` holds {error}", hint=BINARY_HINT) from error


def load_mask_input(path: Path, size: Size) -> Float32:
    """Read the logits SxS of the best mask from a file that `effsam run --masks` wrote.

    Args:
        path: The .npz file.
        size: Size of the model's mask logits.

    Raises:
        PromptError: The file does not exist, is damaged, or contains no finite FP32 logits of this
            size.
    """
    height, width = sides(size)
    try:
        logits = arrays.read_member(path, "low_res_masks")
    except (OSError, ValueError) as error:
        reason = "does not exist" if not path.exists() else f"cannot be read: {error}"
        raise PromptError(f"mask file `{path}` {reason}", hint=HINT) from error
    if logits is None:
        raise PromptError(f"mask file `{path}` has no `low_res_masks`", hint=HINT)
    if logits.ndim != 3 or not len(logits) or logits.shape[1:] != (height, width):
        raise PromptError(
            f"mask file `{path}` holds logits of shape {list(logits.shape)}, "
            f"want Kx{height}x{width}",
            hint=HINT,
        )
    try:
        return arrays.to_float32(logits[0])
    except ValueError as error:
        raise PromptError(f"mask file `{path}` holds {error}", hint=HINT) from error
