"""Load and check the images of a calibration recipe, and cut samples from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.config.calibration import hashes
from effsam_export.errors import ImageError, UsageError, joined
from effsam_export.imaging.decode import read_image
from effsam_export.imaging.pixels import RANGE_HINT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.config.calibration import CalibrationRecipe

MIN_CORRELATION = 0.3
"""Correlation of neighbouring pixels: over 0.8 in photographs, 0 in white noise."""
MIN_SIDE = 32
"""Minimum side of an image and of a crop, in pixels."""


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """The decoded images of a calibration recipe.

    Attributes:
        sha256: SHA-256 of each file, in the recipe's order.
        arrays: Each image as uint8 HxWx3 RGB, in the same order.
        ranges: The values of each file that became black and white.
        notes: How images were read that are not plain 8-bit ones, as sentences.
    """

    recipe: CalibrationRecipe
    sha256: tuple[str, ...]
    arrays: tuple[NDArray[np.uint8], ...]
    ranges: tuple[tuple[float, float], ...]
    notes: tuple[str, ...] = ()


def load(recipe: CalibrationRecipe, evaluation_images: Iterable[Path] = ()) -> CalibrationImages:
    """Read and check the images of a recipe.

    Args:
        recipe: The recipe.
        evaluation_images: Images of the parity check, which must not be used for calibration.

    Raises:
        UsageError: The message lists every file that is unreadable, too small, noise, a duplicate
            or an evaluation image.
    """
    digests = hashes(recipe.images)
    evaluation = {digest: path for path, digest in hashes(evaluation_images).items()}
    seen: dict[str, Path] = {}
    problems, arrays, ranges, notes = [], [], [], []
    for path in recipe.images:
        try:
            decoded = read_image(path, recipe.value_range)
        except ImageError as error:
            where = " (set `range` in a calibration file)" if error.hint == RANGE_HINT else ""
            problems.append(f"{error.message}{where}")
            continue
        image = decoded.pixels
        digest = digests[path]
        if digest in seen:
            problems.append(f"`{path.name}` is the same file as `{seen[digest].name}`")
        elif digest in evaluation:
            problems.append(
                f"`{path.name}` is an evaluation image of this export and must not calibrate it"
            )
        elif min(image.shape[:2]) < MIN_SIDE:
            problems.append(f"`{path.name}` is less than {MIN_SIDE} pixels wide or high")
        elif correlation(image) < MIN_CORRELATION:
            problems.append(
                f"`{path.name}` is noise: its neighbouring pixels correlate by "
                f"{correlation(image):.2f}, the minimum is {MIN_CORRELATION}"
            )
        seen.setdefault(digest, path)
        arrays.append(image)
        ranges.append((decoded.low, decoded.high))
        notes += [f"image `{path.name}` {note}" for note in decoded.notes]
    if problems:
        raise UsageError(
            f"cannot calibrate with `{recipe.name}`: {joined(problems)}",
            hint="use real images like those in the app: random data ruins INT8 accuracy",
        )
    return CalibrationImages(
        recipe=recipe,
        sha256=tuple(digests[p] for p in recipe.images),
        arrays=tuple(arrays),
        ranges=tuple(ranges),
        notes=tuple(notes),
    )


def correlation(image: NDArray[np.uint8]) -> float:
    """Return the correlation of horizontally neighbouring pixels, uint8 HxWx3; 1 if uniform."""
    grey = image.astype(np.float64).mean(axis=2)
    left, right = grey[:, :-1].ravel(), grey[:, 1:].ravel()
    if left.std() == 0 or right.std() == 0:
        return 1.0
    return float(np.corrcoef(left, right)[0, 1])


def samples(images: CalibrationImages) -> Iterator[NDArray[np.uint8]]:
    """Yield `num_samples` images HxWx3: first each whole image, then crops of them in turn.

    The result is deterministic for a recipe and its images.
    """
    recipe, arrays = images.recipe, images.arrays
    generator = np.random.default_rng(recipe.seed)
    for i in range(recipe.num_samples):
        image = arrays[i % len(arrays)]
        if i < len(arrays):
            yield image
            continue
        height, width = image.shape[:2]
        share = generator.uniform(recipe.smallest, 1.0)
        h, w = (max(MIN_SIDE, int(side * share)) for side in (height, width))
        y, x = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
        crop = image[y : y + h, x : x + w]
        if recipe.flip and generator.random() < 0.5:
            crop = crop[:, ::-1]
        yield np.ascontiguousarray(crop)
