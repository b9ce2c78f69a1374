"""What the apps do before and after our graphs, written again from their sources.

Nothing here is shared with `effsam_export`: a mistake there must not be made here too.
Sources: AnyLabeling 0.4.43, `sam_onnx.py` (X-AnyLabeling and rembg 2.0.86 have the same code);
X-AnyLabeling 87da3399, `__base__/sam.py` and `efficientvit_sam.py`; transformers.js 5ed4c5c0,
`image_processing_sam.js` and `image_processors_utils.js`.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Mark = tuple[str, tuple[float, ...], int]
"""`point`, (x, y) and a label; or `rectangle`, (x0, y0, x1, y1) and 0."""
FED = (684, 1024)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the weights of Xenova/sam-vit-base, in its `preprocessor_config.json`."""


@cache
def open_graph(path: Path) -> Any:  # noqa: ANN401 - an object without types
    """An ONNX file in ONNX Runtime."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def warp_affine(planes: NDArray[Any], scale: float, size: tuple[int, int]) -> NDArray[Any]:
    """OpenCV's `warpAffine` of HxWxC with a scaling matrix and INTER_LINEAR; zeros outside."""
    h, w = planes.shape[:2]
    padded = np.zeros((h + 2, w + 2, *planes.shape[2:]))
    padded[:h, :w] = planes
    y, x = np.arange(size[0])[:, None] / scale, np.arange(size[1])[None, :] / scale
    inside = (y < h) & (x < w)
    y, x = np.minimum(y, h), np.minimum(x, w)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    b, a = (y - top)[..., None], (x - left)[..., None]
    corners = padded.reshape(h + 2, w + 2, -1)
    out = (
        corners[top, left] * (1 - b) * (1 - a)
        + corners[top, left + 1] * (1 - b) * a
        + corners[top + 1, left] * b * (1 - a)
        + corners[top + 1, left + 1] * b * a
    )
    return np.where(inside[..., None], out, 0).reshape(*size, *planes.shape[2:])


def anylabeling(folder: Path, image: NDArray[np.uint8], marks: list[Mark]) -> NDArray[np.bool_]:
    """The mask that AnyLabeling draws: `masks[0][0] > 0`."""
    encoder = open_graph(folder / "encoder.onnx")
    decoder = open_graph(folder / "decoder.onnx")
    original = image.shape[0], image.shape[1]
    scale = min(FED[1] / original[1], FED[0] / original[0])
    fed = np.clip(np.rint(warp_affine(image, scale, FED)), 0, 255).astype(np.uint8)
    name = encoder.get_inputs()[0].name
    embedding = encoder.run(None, {name: fed.astype(np.float32)})[0]
    points, labels = in_order(marks)
    points, labels = [*points, (0.0, 0.0)], [*labels, -1]
    masks, _, _ = decoder.run(
        None,
        {
            "image_embeddings": embedding,
            "point_coords": (np.asarray([points]) * scale).astype(np.float32),
            "point_labels": np.asarray([labels], dtype=np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), dtype=np.float32),
            "has_mask_input": np.zeros(1, dtype=np.float32),
            "orig_im_size": np.asarray(FED, dtype=np.float32),
        },
    )
    assert masks.shape == (1, 1, *FED)
    logits = warp_affine(masks[0, 0][..., None], 1 / scale, original)[..., 0]
    shown: NDArray[np.bool_] = logits > 0
    return shown


def in_order(marks: list[Mark]) -> tuple[list[tuple[float, ...]], list[int]]:
    """Points and labels of marks, in their order."""
    points: list[tuple[float, ...]] = []
    labels: list[int] = []
    for kind, data, label in marks:
        points += [data] if kind == "point" else [data[:2], data[2:]]
        labels += [label] if kind == "point" else [2, 3]
    return points, labels


def fitted(original: tuple[int, int]) -> tuple[int, int]:
    """(height, width) scaled to a longest side of 1024, as in X-AnyLabeling's own types."""
    scale = 1024 / max(original)
    return int(original[0] * scale + 0.5), int(original[1] * scale + 0.5)


def edge_sam(folder: Path, image: NDArray[np.uint8], marks: list[Mark]) -> NDArray[np.bool_]:
    """The mask that X-AnyLabeling draws for its type `edge_sam`."""
    encoder = open_graph(folder / "encoder.onnx")
    decoder = open_graph(folder / "decoder.onnx")
    original = image.shape[0], image.shape[1]
    size = fitted(original)
    # OpenCV's `resize` of bytes, but for its fixed point.
    resized = np.rint(interpolated(image.transpose(2, 0, 1).astype(np.float64), size))
    name = encoder.get_inputs()[0].name
    embedding = encoder.run(None, {name: resized.astype(np.uint8)[None]})[0]
    points, labels = in_order(marks)
    coords = np.asarray([points]) * [size[1] / original[1], size[0] / original[0]]
    _, masks = decoder.run(
        None,
        {
            "image_embeddings": embedding,
            "point_coords": coords.astype(np.float32),
            "point_labels": np.asarray([labels], dtype=np.float32),
        },
    )
    stable = (masks[0] > 1).sum((1, 2)) / (masks[0] > -1).sum((1, 2))
    best = masks[0, np.argmax(stable)]
    inner = interpolated(best, (1024, 1024))[: size[0], : size[1]]
    shown: NDArray[np.bool_] = interpolated(inner, original) > 0
    return shown


def efficientvit_sam(
    folder: Path, image: NDArray[np.uint8], marks: list[Mark]
) -> NDArray[np.bool_]:
    """The mask that X-AnyLabeling draws for its type `efficientvit_sam`."""
    encoder = open_graph(folder / "encoder.onnx")
    decoder = open_graph(folder / "decoder.onnx")
    original = image.shape[0], image.shape[1]
    size = fitted(original)
    embedding = encoder.run(None, {encoder.get_inputs()[0].name: image})[0]
    assert embedding.shape == (1, 256, 64, 64)
    points, labels = in_order(marks)
    coords = np.asarray([points]) * [size[1] / original[1], size[0] / original[0]]
    masks, _, _ = decoder.run(
        None,
        {
            "image_embeddings": embedding,
            "point_coords": coords.astype(np.float32),
            "point_labels": np.asarray([labels], dtype=np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), dtype=np.float32),
            "has_mask_input": np.zeros(1, dtype=np.float32),
            "orig_im_size": np.asarray(original, dtype=np.float32),
        },
    )
    shown: NDArray[np.bool_] = masks[0][0] > 0
    return shown


def transformers_js(
    folder: Path,
    image: NDArray[np.uint8],
    input_points: list[list[list[float]]],
    input_labels: list[list[int]],
    suffix: str = "",
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks PxKxHxW and `iou_scores` PxK, for P prompts, with Pillow in the place of the canvas."""
    encoder = open_graph(folder / f"onnx/vision_encoder{suffix}.onnx")
    decoder = open_graph(folder / f"onnx/prompt_encoder_mask_decoder{suffix}.onnx")
    height, width = image.shape[:2]
    factor = min(1024 / width, 1024 / height)
    new_h, new_w = (
        math.floor(Decimal(side * factor).quantize(Decimal("0.01"), ROUND_HALF_UP))
        for side in (height, width)
    )
    resized = Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized) * np.float32(1 / 255)
    pixels = (pixels - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    fed = np.zeros((1, 3, 1024, 1024), dtype=np.float32)
    fed[0, :, :new_h, :new_w] = pixels.transpose(2, 0, 1)
    names = [o.name for o in encoder.get_outputs()]
    encoded = dict(zip(names, encoder.run(None, {"pixel_values": fed}), strict=True))
    points = np.asarray([input_points]) * [new_w / width, new_h / height]
    feeds = {
        **encoded,
        "input_points": points.astype(np.float32),
        "input_labels": np.asarray([input_labels], dtype=np.int64),
    }
    # A missing input raises an error in the library, an additional one is left out.
    given = {i.name: feeds[i.name] for i in decoder.get_inputs()}
    outputs = dict(
        zip([o.name for o in decoder.get_outputs()], decoder.run(None, given), strict=True)
    )
    masks = outputs["pred_masks"][0]
    full = interpolated(masks, (1024, 1024))[..., :new_h, :new_w]
    shown: NDArray[np.bool_] = interpolated(full, (height, width)) > 0
    return shown, outputs["iou_scores"][0]


def interpolated(planes: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Bilinear resizing of the last two axes, half-pixel centres, edges clamped."""
    for axis, new in ((-2, size[0]), (-1, size[1])):
        old = planes.shape[axis]
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        part = (at - low).reshape([-1, 1] if axis == -2 else [1, -1])
        before = np.take(planes, low, axis)
        planes = before + (np.take(planes, np.minimum(low + 1, old - 1), axis) - before) * part
    return planes
