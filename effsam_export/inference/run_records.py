"""The records of a run: images with prompts, settings, and the masks of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.imaging.pixels import Decoded, ValueRange
    from effsam_export.inference.automatic_masks import GridSettings
    from effsam_export.inference.found import FoundMask
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.tensors import Feeds

OBJECT = "object"
"""Category of a prompt for which none is given."""


@dataclass(frozen=True, kw_only=True)
class ObjectPrompt:
    """One prompt for one object.

    Attributes:
        prompt: In pixels of the original image.
        category: Name of what the object is.
    """

    prompt: Prompt
    category: str = OBJECT


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """One image and its prompts.

    Attributes:
        path: The image file.
        name: Name of its outputs in a folder, without suffix.
        size: (height, width) of the image in pixels.
        file_name: Its name in a COCO document.
        image_id: Its number there.
        prompts: In the order of their numbers, which begin at 1. Empty for a run without prompts.
        embedding: File with its embedding, in place of the encoder; None to encode it.
    """

    path: Path
    name: str
    size: tuple[int, int]
    file_name: str
    image_id: int = 1
    prompts: tuple[ObjectPrompt, ...] = ()
    embedding: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What is the same for all images of a run.

    Attributes:
        single_mask: Use the single-mask output of the model, not its multimask outputs.
        value_range: Which values of an image become black and white.
        grid: Generate all masks of the image by this grid, without prompts.
        several: The run is on several images, or on a folder. A single prompt on a single image
            gives all masks of the model; otherwise each prompt gives its best mask.
        encoder_sha256: Hash of the bundle's encoder, for files of embeddings.
    """

    single_mask: bool = False
    value_range: ValueRange = "auto"
    grid: GridSettings | None = None
    several: bool = False
    encoder_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """The masks of one image.

    Attributes:
        task: The image and its prompts.
        decoded: Its pixels.
        masks: In the order of the prompts; generated masks by descending score.
        embedding: The encoder's outputs; None for a model that segments instances.
        encode_s: Wall time of resizing and encoding the image, in seconds; None if its embedding
            was given.
        decode_s: Wall time of all its prompts, with the masks at original size.
    """

    task: ImageTask
    decoded: Decoded
    masks: tuple[FoundMask, ...]
    embedding: Feeds | None = None
    encode_s: float | None
    decode_s: float
