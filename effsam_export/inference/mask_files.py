"""Write the masks of an image: as a NumPy file, as one PNG file, or as a folder of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from effsam_export.errors import OutputError
from effsam_export.inference.overlay_many import colour
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.inference.found import FoundMask
    from effsam_export.inference.run_records import ImageResult

SUFFIXES = (".npz", ".png")
MAX_COLOURS = 255
"""Masks in a PNG file with a palette; more are written in 16 bits."""
MAX_LABELS = 65_535


def check_suffix(path: Path) -> None:
    """Check the name of a file of masks.

    Raises:
        OutputError: It does not end in one of `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"masks file `{path}` does not end in {' or '.join(f'`{s}`' for s in SUFFIXES)}",
            hint=f"end the name in {' or '.join(SUFFIXES)}, or give a folder for a PNG file of "
            "each mask",
        )


def save(result: ImageResult, path: Path, *, is_folder: bool) -> None:
    """Write the masks of an image in the form that the path stands for.

    Args:
        result: The masks.
        path: `.npz`: all masks, see `save_npz` and `save_generated_npz`. `.png`: the best mask of
            a single prompt, 255 on the object; of several, see `labels`. A folder: a PNG file
            `NAME-NUMBER.png` for the best mask of each prompt, or for each generated mask.
        is_folder: The path is a folder, which exists.

    Raises:
        OutputError: A file cannot be written, or there are more masks than labels.
    """
    size = (result.decoded.pixels.shape[0], result.decoded.pixels.shape[1])
    if not is_folder and path.suffix.lower() == ".npz":
        (save_npz if result.task.prompts else save_generated_npz)(result.masks, size, path)
        return
    best = numbered(result.masks)
    if is_folder:
        for number, mask in best.items():
            _save_png(_binary(mask), path / f"{result.task.name}-{number}.png")
    elif len(result.task.prompts) == 1:
        _save_png(_binary(best[1]), path)
    else:
        _save_png(labels(best, size), path)


def numbered(masks: Sequence[FoundMask]) -> dict[int, FoundMask]:
    """Return the best mask of each prompt by its number; generated masks by 1, 2, 3 ..."""
    if masks and masks[0].prompt is None:
        return dict(enumerate(masks, start=1))
    best: dict[int, FoundMask] = {}
    for mask in masks:
        if mask.prompt is not None:
            best.setdefault(mask.prompt, mask)
    return best


def labels(masks: dict[int, FoundMask], size: tuple[int, int]) -> Image.Image:
    """Return a picture whose pixel values are the numbers of masks, 0 outside them.

    Smaller masks lie over larger ones. Up to `MAX_COLOURS` it has a palette with the colours of
    the overlay, beyond that 16 bits.

    Raises:
        OutputError: There are more masks than numbers of 16 bits.
    """
    most = max(masks, default=0)
    if most > MAX_LABELS:
        raise OutputError(
            f"a PNG file holds {MAX_LABELS} masks, and there are {most}",
            hint="give a folder or a name that ends in .npz",
        )
    values = np.zeros(size, dtype=np.uint8 if most <= MAX_COLOURS else np.uint16)
    for number, mask in sorted(masks.items(), key=lambda item: -item[1].area):
        values[mask.decoded()] = number
    picture = Image.fromarray(values)
    if most <= MAX_COLOURS:
        palette = [channel for i in range(most) for channel in colour(i)]
        picture.putpalette([0, 0, 0, *palette])
    return picture


def _binary(mask: FoundMask) -> Image.Image:
    values: NDArray[np.uint8] = mask.decoded().astype(np.uint8) * np.uint8(255)
    return Image.fromarray(values)


def _save_png(picture: Image.Image, path: Path) -> None:
    data = io.BytesIO()
    picture.save(data, "PNG")
    write_whole(path, data.getvalue())


def save_npz(masks: Sequence[FoundMask], size: tuple[int, int], path: Path) -> None:
    """Write the masks of prompts as a compressed .npz, atomically.

    It holds `masks` bool KxHxW, `scores` float32 K and `low_res_masks` float32 KxSxS. The last is
    left out for a model that segments instances, which takes no mask input. With several prompts,
    `prompts` int64 K holds the number of the prompt of each mask.

    Args:
        masks: The masks.
        size: (height, width) of the image.
        path: The file.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays = _common(masks, size)
    logits = [m.logits for m in masks if m.logits is not None]
    if logits:
        arrays["low_res_masks"] = np.stack(logits)
    numbers = [m.prompt for m in masks]
    if len(set(numbers)) > 1:
        arrays["prompts"] = np.asarray(numbers, dtype=np.int64)
    _save(arrays, path)


def save_generated_npz(masks: Sequence[FoundMask], size: tuple[int, int], path: Path) -> None:
    """Write generated masks as a compressed .npz, atomically.

    It holds `masks`, `scores`, `stability_scores`, `boxes` int64 Kx4 and `points` float32 Kx2.
    Missing stability scores are NaN, missing points are (NaN, NaN).

    Raises:
        OutputError: The file cannot be written.
    """
    nan = float("nan")
    _save(
        {
            **_common(masks, size),
            "stability_scores": np.asarray(
                [nan if m.stability is None else m.stability for m in masks], dtype=np.float32
            ),
            "boxes": np.asarray([m.box for m in masks], dtype=np.int64).reshape(-1, 4),
            "points": np.asarray(
                [(nan, nan) if m.point is None else m.point for m in masks], dtype=np.float32
            ).reshape(-1, 2),
        },
        path,
    )


def _common(
    masks: Sequence[FoundMask], size: tuple[int, int]
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Return `masks` and `scores`."""
    decoded = np.zeros((len(masks), *size), dtype=np.bool_)
    for i, mask in enumerate(masks):
        decoded[i] = mask.decoded()
    return {
        "masks": decoded,
        "scores": np.asarray([m.score for m in masks], dtype=np.float32),
    }


def _save(arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], path: Path) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]  # numpy's stub: allow_pickle
    write_whole(path, data.getvalue())
