"""Prepare the golden image and prompts of a bundle, and convert logits to masks, by its manifest.

Needs only numpy and Pillow (`sudo apt install python3-pil` on a Jetson). The results equal those of
`effsam run` bit for bit; a test of effsam-export compares them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CUBIC = -0.75
"""Parameter of cubic convolution, as in torch."""


def load_image(path: Any) -> Any:
    """Read a PNG image as uint8 HxWx3 RGB."""
    from PIL import PngImagePlugin

    # `Image.open` would accept every format; its option `formats` is missing in Pillow before 8.
    with PngImagePlugin.PngImageFile(path) as image:
        return np.asarray(image.convert("RGB"))


def sides(size: Any) -> tuple[int, int]:
    """Return (height, width) of a size in a manifest: the side of a square, or [height, width]."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def fitted(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of the largest image of these proportions that fits a frame."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def preprocess(image: Any, rule: dict[str, Any]) -> Any:
    """Convert uint8 HxWx3 RGB to the encoder's `image`, float32 1x3xHxW, by `preprocess`."""
    size = sides(rule["image_size"])
    if rule["family"] == "squash":
        planes = image.transpose(2, 0, 1).astype(np.float32)
        return resize_bilinear(planes, size)[None]
    if rule["family"] == "longest-side-pad":
        from PIL import Image

        h, w = fitted(image.shape[:2], size)
        resized = np.asarray(Image.fromarray(image).resize((w, h), Image.BILINEAR))  # type: ignore[attr-defined]
        out = np.empty((1, 3, *size), dtype=np.float32)
        out[0] = np.asarray(rule["pad"]["value"], dtype=np.float32)[:, None, None]
        out[0, :, :h, :w] = resized.transpose(2, 0, 1)
        return out
    raise ValueError(f"this kit does not support the preprocessing family `{rule['family']}`")


def prompt_frame(size: tuple[int, int], manifest: dict[str, Any]) -> tuple[int, int]:
    """Return the (height, width) of an image in the coordinate frame of the prompts."""
    frame = sides(manifest["prompts"]["coordinates"]["size"])
    if manifest["preprocess"]["family"] == "squash":
        return frame
    return fitted(size, frame)


def decoder_feeds(
    case: dict[str, Any], mask_input: Any, size: tuple[int, int], manifest: dict[str, Any]
) -> dict[str, Any]:
    """Return the decoder's inputs for one golden case, without the embedding.

    Args:
        case: An entry of `golden.json`: points [x, y, label] and box in original pixels.
        mask_input: Low-resolution logits of a previous mask, or None.
        size: (height, width) of the image.
        manifest: Manifest of the bundle.
    """
    h, w = prompt_frame(size, manifest)
    sy, sx = h / size[0], w / size[1]
    coords = [(x * sx, y * sy) for x, y, _ in case["points"]]
    labels = [label for _, _, label in case["points"]]
    box = case["box"]
    if box is not None:
        coords += [(box[0] * sx, box[1] * sy), (box[2] * sx, box[3] * sy)]
        labels += [2, 3]
    padding, most = manifest["prompts"]["padding"], manifest["prompts"]["supports"]["max_points"]
    closing = 1 if box is None else 0
    missing = closing if most is None else most - len(labels)
    coords += [tuple(padding["coordinates"])] * missing
    labels += [padding["label"]] * missing
    feeds = {
        "point_coords": np.asarray([coords], dtype=np.float32),
        "point_labels": np.asarray([labels], dtype=np.float32),
    }
    if manifest["prompts"]["mask_input"] is not None:
        mask = np.zeros((1, 1, *sides(manifest["masks"]["low_res_size"])), dtype=np.float32)
        if mask_input is not None:
            mask[0, 0] = mask_input
        feeds["mask_input"] = mask
        feeds["has_mask_input"] = np.asarray([mask_input is not None], dtype=np.float32)
    return feeds


def upscale(low_res: Any, size: tuple[int, int], manifest: dict[str, Any]) -> Any:
    """Resize the decoder's logits to the image size; return bool masks KxHxW."""
    threshold = manifest["masks"]["threshold"]
    if manifest["masks"]["resize"][0].startswith("bicubic"):
        return resize_bicubic(low_res, size) > threshold
    h, w = prompt_frame(size, manifest)
    full = resize_bilinear(low_res, sides(manifest["prompts"]["coordinates"]["size"]))
    return resize_bilinear(full[:, :h, :w], size) > threshold


def resize_bilinear(x: Any, size: tuple[int, int]) -> Any:
    """Resize KxHxW float32 bilinearly: half-pixel centres, no antialiasing, edges clamped."""
    for axis, new in ((2, size[1]), (1, size[0])):
        old = x.shape[axis]
        at = np.maximum(positions(old, new), np.float32(0))
        low = np.minimum(at.astype(np.int64), old - 1)
        high = np.minimum(low + 1, old - 1)
        part = at - low.astype(np.float32)
        part = part[:, None] if axis == 1 else part
        below, above = np.take(x, low, axis=axis), np.take(x, high, axis=axis)
        x = (above - below) * part + below
    return x


def resize_bicubic(x: Any, size: tuple[int, int]) -> Any:
    """Resize KxHxW float32 bicubically: half-pixel centres, no antialiasing, edges repeated."""
    for axis, new in ((2, size[1]), (1, size[0])):
        old = x.shape[axis]
        at = positions(old, new)
        base = np.floor(at).astype(np.int64)
        weights = cubic_weights(at - base.astype(np.float32))
        total = None
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            taken = np.take(x, np.clip(base + offset, 0, old - 1), axis=axis)
            part = taken * (weight[:, None] if axis == 1 else weight)
            total = part if total is None else total + part
        x = total
    return x


def positions(old: int, new: int) -> Any:
    """Return the source coordinate of each new pixel's centre, rounded to float32 like torch."""
    scale = np.float64(np.float32(old) / np.float32(new))
    return ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)


def cubic_weights(t: Any) -> list[Any]:
    """Return the weights of Keys' kernel for four neighbours, at distance `t` after the second."""
    a = np.float32(CUBIC)

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [np.asarray(w, dtype=np.float32) for w in (far(t + 1), near(t), near(1 - t), far(2 - t))]


def decode_rle(rle: dict[str, Any]) -> Any:
    """Decode an uncompressed COCO run-length encoding to a bool HxW mask."""
    height, width = rle["size"]
    counts = np.asarray(rle["counts"], dtype=np.int64)
    if counts.min(initial=0) < 0 or counts.sum() != height * width:
        raise ValueError("the runs of a golden mask do not add up to its size")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape((height, width), order="F"))


def mask_iou(a: Any, b: Any) -> float:
    """Return the intersection over union of two HxW masks; 1 if both are empty."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0
