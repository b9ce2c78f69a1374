"""Models with another size of input (`--image-size`)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from effsam_export.errors import UsageError, shown
from effsam_export.models.batching import with_batch
from effsam_export.spec.sizes import from_document, of_sides, sides, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.sizes import Size

IMAGE = "image"
MIN_SIDE, MAX_SIDE = 64, 2048
"""Pixels. The memory of attention over the whole map grows with the fourth power of the side: at
2048 pixels, one block of ViT-B has 13 GB of scores."""
WRITTEN = re.compile(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", re.ASCII)


def parsed(text: str) -> Size | None:
    """Return the size that a person wrote, `512` or `1024x768` (HxW); None if it is not one."""
    found = WRITTEN.fullmatch(text.strip(" "))
    if found is None:
        return None
    return of_sides(int(found[1]), int(found[2] or found[1]))


def in_written_size(model: ModelSpec, text: str) -> ModelSpec:
    """Return the model with an input of the size that a person wrote.

    Raises:
        UsageError: Not a size, or the model cannot have that size.
    """
    size = parsed(text)
    if size is None:
        raise UsageError(
            f"--image-size `{shown(text)}` is not a size in pixels",
            hint="examples: --image-size 512, or a height and a width: --image-size 1024x768",
        )
    return resized(model, size)


def resized(model: ModelSpec, size: Size) -> ModelSpec:
    """Return the model with another size of input, and the same batch.

    The position tables of a checkpoint are resized when they are loaded, even where the size is
    the model's own.

    Raises:
        UsageError: The model has one size, or cannot work with this one.
    """
    fault = size_fault(model, size)
    if fault is not None:
        raise UsageError(fault[0], hint=fault[1])
    assert model.sizes is not None
    return with_batch(model.sizes.at(model, size), model.batch)


def size_fault(model: ModelSpec, size: Size) -> tuple[str, str] | None:
    """Return why a model cannot have an input of a size, and a hint; None if it can."""
    if model.sizes is None:
        own = text_of(model.preprocess.image_size)
        return (
            f"the image size of `{model.name}` cannot be changed: its input has {own} pixels",
            "leave out --image-size",
        )
    step = model.sizes.multiple
    if not all(MIN_SIDE <= side <= MAX_SIDE and side % step == 0 for side in sides(size)):
        lowest, highest = -(-MIN_SIDE // step) * step, MAX_SIDE // step * step
        near = (min(max(round(s / step) * step, lowest), highest) for s in sides(size))
        return (
            f"the image size of `{model.name}` has to be a multiple of {step} from {lowest} to "
            f"{highest} pixels, not {text_of(size)}",
            f"the nearest is --image-size {text_of(of_sides(*near))}",
        )
    if not isinstance(size, int) and not model.sizes.rectangles:
        return (
            f"the input of `{model.name}` has to be a square, not {text_of(size)}",
            f"use --image-size {max(size)}",
        )
    return None


def of_manifest(model: ModelSpec, manifest: Mapping[str, Any]) -> ModelSpec:
    """Return the model in the size of a bundle.

    It is unchanged where the manifest contradicts itself, or states a size that the model cannot
    have: a bundle's graphs and manifest are held to the model later.
    """
    size = from_document(manifest["preprocess"]["image_size"])
    shapes = [t["shape"] for c in manifest["components"] for t in c["inputs"] if t["name"] == IMAGE]
    # N x C x height x width, or a picture height x width x C.
    if any(sides(size) not in (tuple(s[2:4]), tuple(s[:2])) for s in shapes):
        return model
    if size_fault(model, size) is not None:
        return model
    if size == model.preprocess.image_size:
        return with_fitted_tables(model)
    return resized(model, size)


def with_fitted_tables(model: ModelSpec) -> ModelSpec:
    """Return the model in its size, for checkpoints with position tables of any size."""
    size = model.preprocess.image_size
    return model if size_fault(model, size) else replace(model, fit=resized(model, size).fit)
