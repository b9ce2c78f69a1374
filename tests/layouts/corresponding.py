"""Our masks for what an app fed: its pixels and points through the graphs of an `onnx` bundle.

The graphs, the order of the steps and the choice of masks are ours; of the app are the pixels that
it resized and the points that it gives. So what is left is the app's own way of resizing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.bundle import read
from effsam_export.imaging import corner
from effsam_export.imaging.images import Frame, upscale_masks
from effsam_export.models.sam.components import SAM_MASKS, SAM_PREPROCESS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.spec.tensors import Feeds, Float32
    from tests.layouts.real_apps import Answer

MEAN = np.asarray(SAM_PREPROCESS.pixel_mean, dtype=np.float32)[:, None, None]
STD = np.asarray(SAM_PREPROCESS.pixel_std, dtype=np.float32)[:, None, None]
SIDE = 1024


class Graphs:
    """The graphs of an ordinary bundle of a model like SAM; the last image is kept embedded."""

    def __init__(self, bundle: Path) -> None:
        opened = read.read(bundle)
        assert opened.layout is None
        self._encoder: Session = read.open_session(opened, "encoder")
        self._decoder: Session = read.open_session(opened, "decoder")
        self._last: tuple[Float32, Feeds] | None = None

    def decoded(self, image: Float32, points: Float32, labels: Float32) -> Feeds:
        """Masks and scores for `image` 1x3x1024x1024 and points Nx2 of one prompt."""
        if self._last is None or not np.array_equal(self._last[0], image):
            self._last = image, self._encoder.run({"image": image})
        return self._decoder.run(
            {
                **self._last[1],
                "point_coords": points[None].astype(np.float32),
                "point_labels": labels[None].astype(np.float32),
                "mask_input": np.zeros((1, 1, 256, 256), dtype=np.float32),
                "has_mask_input": np.zeros(1, dtype=np.float32),
            }
        )

    def of_transformers_js(self, answer: Answer) -> NDArray[np.bool_]:
        """The three masks for the pixels and points of the library, KxHxW."""
        image = answer.pixels * STD + MEAN
        points, labels = answer.points, answer.labels
        if 2 not in labels:
            points, labels = np.concatenate([points, [[0, 0]]]), np.append(labels, -1)
        outputs = self.decoded(image.astype(np.float32), points, labels)
        size = (answer.masks.shape[1], answer.masks.shape[2])
        frame = Frame(
            original=size,
            resized=answer.resized,
            image_size=SIDE,
            prompt=answer.resized,
            prompt_size=SIDE,
        )
        low_res = np.ascontiguousarray(outputs["low_res_masks"][0, 1:])
        shown: NDArray[np.bool_] = upscale_masks(low_res, frame, SAM_MASKS) > 0
        return shown

    def of_rembg(self, answer: Answer, *, padding: bool = True) -> NDArray[np.bool_]:
        """The one mask for the pixels and points of rembg, 1xHxW.

        `padding` keeps the padding point that rembg adds to a box, too.
        """
        image = np.broadcast_to(MEAN, (3, SIDE, SIDE))[None].copy()
        height, width = answer.resized
        image[0, :, :height, :width] = answer.pixels.transpose(2, 0, 1)
        kept = slice(None) if padding or 2 not in answer.labels else slice(-1)
        outputs = self.decoded(image, answer.points[kept], answer.labels[kept])
        several = len(answer.points) > 2
        best = 0 if several else 1 + int(np.argmax(outputs["iou_predictions"][0, 1:]))
        frame = Frame(
            original=answer.resized,
            resized=answer.resized,
            image_size=SIDE,
            prompt=answer.resized,
            prompt_size=SIDE,
        )
        low_res = np.ascontiguousarray(outputs["low_res_masks"][0, [best]])
        logits = upscale_masks(low_res, frame, SAM_MASKS)
        size = (answer.masks.shape[1], answer.masks.shape[2])
        shown: NDArray[np.bool_] = corner.restored(logits, size) > 0
        return shown
