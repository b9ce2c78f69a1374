"""The masks of a report: image, reference, artefact and where they differ, as small images."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from effsam_export.imaging import overlay
from effsam_export.parity.metrics import mask_iou
from effsam_export.pipeline.report_numbers import iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.parity.results import Picture

PANEL_WIDTH, PANEL_HEIGHT = 360, 480
JPEG_QUALITY = 80
IN_BOTH = (160, 160, 160)


@dataclass(frozen=True, kw_only=True)
class Swatch:
    """A colour of the disagreement panel and its meaning."""

    colour: tuple[int, int, int]
    name: str


SWATCHES = (
    Swatch(colour=overlay.ONLY_REFERENCE, name="missed: reference only"),
    Swatch(colour=overlay.ONLY_ARTIFACT, name="added: artefact only"),
    Swatch(colour=IN_BOTH, name="in both"),
)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One image of a case.

    Attributes:
        source: The image as a `data:` address.
        caption: Shown below the image.
    """

    source: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class PictureView:
    """The panels of one case.

    Attributes:
        difference: How many pixels differ, in words.
        differs: Whether any does; if not, the panels are collapsed.
    """

    case: str
    difference: str
    differs: bool
    panels: tuple[Panel, ...]


def view(picture: Picture) -> PictureView:
    """Return the panels of one case."""
    reference, actual = picture.reference, picture.actual
    missed = int(np.count_nonzero(reference & ~actual))
    added = int(np.count_nonzero(actual & ~reference))
    mask = "mask" if picture.mask is None else f"mask {picture.mask}"
    difference = "no pixel differs"
    if missed or added:
        difference = f"{missed:,} missed, {added:,} added, of {reference.size:,} pixels"
    height, width = reference.shape
    scale = min(1.0, PANEL_WIDTH / width, PANEL_HEIGHT / height)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    sy, sx = size[0] / height, size[1] / width
    small = Image.fromarray(picture.image).resize(size[::-1], Image.Resampling.LANCZOS)
    image = np.asarray(small)
    box = picture.box
    prompted = overlay.draw(
        image,
        overlay.shrink(reference, size),
        points=[((x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5, on) for x, y, on in picture.points],
        boxes=[] if box is None else [(box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy)],
    )
    answered = overlay.draw(image, overlay.shrink(actual, size))
    same = iou(mask_iou(reference, actual))
    panels = (
        _panel(prompted, "JPEG", f"Prompts and the reference's {mask}"),
        _panel(answered, "JPEG", f"The artefact's {mask}, IoU {same}"),
        _panel(
            overlay.disagreement(image, reference, actual), "PNG", f"Disagreement: {difference}"
        ),
    )
    return PictureView(
        case=picture.case, difference=difference, differs=bool(missed or added), panels=panels
    )


def _panel(image: NDArray[np.uint8], kind: str, caption: str) -> Panel:
    data = io.BytesIO()
    # Without subsampling, outlines one pixel wide keep their colour. Neither format is optimized:
    # Pillow cannot optimize a JPEG of noise, and a PNG gains no byte in eight times the time.
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(image).save(data, kind, **options)
    encoded = base64.b64encode(data.getvalue()).decode()
    return Panel(source=f"data:image/{kind.lower()};base64,{encoded}", caption=caption)
