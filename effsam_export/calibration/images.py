"""The photographs of a recipe, checked, and the samples that are cut from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.config.calibration import hashes
from effsam_export.errors import ImageError, UsageError
from effsam_export.imaging.images import load_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.config.calibration import CalibrationRecipe

LEAST_CORRELATION = 0.3
"""Of neighbouring pixels. Photographs have over 0.8, white noise has 0."""
SMALLEST_SIDE = 32
"""A crop is never smaller, in pixels."""


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """What a calibration looks at, checked.

    Attributes:
        sha256: Of each file, in the recipe's order.
        pictures: uint8 HxWx3 RGB, in the same order.
    """

    recipe: CalibrationRecipe
    sha256: tuple[str, ...]
    arrays: tuple[NDArray[np.uint8], ...]


def load(recipe: CalibrationRecipe, evaluation_images: Iterable[Path] = ()) -> CalibrationImages:
    """Read the photographs of a recipe.

    Args:
        recipe: What to read.
        evaluation_images: Images of the parity check, which must not be used for calibration.

    Raises:
        UsageError: Every file that is unreadable, there twice, noise, or a judge, in one message.
    """
    found = hashes(recipe.images)
    evaluating = {digest: path for path, digest in hashes(evaluation_images).items()}
    seen: dict[str, Path] = {}
    problems, arrays = [], []
    for path in recipe.images:
        try:
            image = load_image(path)
        except ImageError as error:
            problems.append(error.message)
            continue
        digest = found[path]
        if digest in seen:
            problems.append(f"`{path.name}` is the same file as `{seen[digest].name}`")
        elif digest in evaluating:
            problems.append(f"`{path.name}` judges this export, and must not calibrate it")
        elif min(image.shape[:2]) < SMALLEST_SIDE:
            problems.append(f"`{path.name}` is under {SMALLEST_SIDE} pixels wide or high")
        elif correlation(image) < LEAST_CORRELATION:
            problems.append(
                f"`{path.name}` is noise: neighbouring pixels correlate by "
                f"{correlation(image):.2f}, in photographs by over {LEAST_CORRELATION}"
            )
        seen.setdefault(digest, path)
        arrays.append(image)
    if problems:
        raise UsageError(
            f"cannot calibrate with `{recipe.name}`: {'; '.join(problems)}",
            hint="calibrate with photographs like those the app will see, random data ruins INT8",
        )
    return CalibrationImages(
        recipe=recipe, sha256=tuple(found[p] for p in recipe.images), arrays=tuple(arrays)
    )


def correlation(image: NDArray[np.uint8]) -> float:
    """Correlation of horizontally neighbouring pixels of a uint8 HxWx3 picture; 1 if it is flat."""
    grey = image.astype(np.float64).mean(axis=2)
    left, right = grey[:, :-1].ravel(), grey[:, 1:].ravel()
    if left.std() == 0 or right.std() == 0:
        return 1.0
    return float(np.corrcoef(left, right)[0, 1])


def samples(images: CalibrationImages) -> Iterator[NDArray[np.uint8]]:
    """The recipe's number of pictures HxWx3: each photograph whole, then crops in turn.

    The same recipe and photographs give the same pictures, bit for bit.
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
        h, w = (max(SMALLEST_SIDE, int(side * share)) for side in (height, width))
        y, x = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
        crop = image[y : y + h, x : x + w]
        if recipe.flip and generator.random() < 0.5:
            crop = crop[:, ::-1]
        yield np.ascontiguousarray(crop)
