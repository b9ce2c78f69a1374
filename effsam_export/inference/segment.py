"""Segment an image with a bundle. No torch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.bundle import read
from effsam_export.errors import PromptError
from effsam_export.imaging import arrays
from effsam_export.imaging.decode import read_image
from effsam_export.imaging.images import check_prompt
from effsam_export.inference import automatic_masks, runner
from effsam_export.inference.runner import Prediction
from effsam_export.spec.sizes import sides
from effsam_export.util.files import write_whole
from effsam_export.util.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.imaging.pixels import Decoded, ValueRange
    from effsam_export.inference.automatic_masks import GridSettings, MaskRecord
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Float32
    from effsam_export.util.progress import OnProgress

MASK_SUFFIX = ".npz"


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """An image and the masks of its prompts."""

    decoded: Decoded
    prediction: Prediction


def segment(
    bundle_path: Path,
    image_path: Path,
    prompts: Sequence[Prompt],
    *,
    single_mask: bool = False,
    value_range: ValueRange = "auto",
) -> Segmentation:
    """Run a bundle on an image and return the masks of the prompts.

    Args:
        bundle_path: Directory of the bundle.
        image_path: An image file.
        prompts: In pixels of the original image. For one prompt, all masks of the model are
            returned, best score first; for several, the best mask of each, in their order.
        single_mask: Use the single-mask output instead of the multimask outputs.
        value_range: Which values of the image become black and white.

    Raises:
        BundleError: The bundle is damaged or lacks a component.
        ImageError: The image cannot be read.
        PromptError: A prompt is outside the image or not supported by the model.
        ToolchainMissing: The bundle's runtime is not installed.
    """
    bundle = read.read(bundle_path)
    model = bundle.model
    decoded = read_image(image_path, value_range)
    image = decoded.pixels
    if not prompts:
        raise PromptError("there is no prompt", hint="give --point X,Y or --box X0,Y0,X1,Y1")
    for prompt in prompts:
        check_prompt(prompt, (image.shape[0], image.shape[1]), model.prompts)
    if model.finds_instances:
        if single_mask:
            raise PromptError(
                f"`{model.name}` has no single-mask output", hint="leave --single-mask out"
            )
        instances = runner.find_instances(model, read.open_session(bundle, "segmenter"), image)
        predictions = [runner.select_instance(model, instances, p) for p in prompts]
    else:
        embedded = runner.embed(model, read.open_session(bundle, "encoder"), image)
        decoder = read.open_session(bundle, "decoder")
        predictions = [
            runner.predict(model, decoder, embedded, p, single_mask=single_mask) for p in prompts
        ]
    one = len(predictions) == 1
    return Segmentation(
        decoded=decoded, prediction=predictions[0] if one else best_of_each(predictions)
    )


@dataclass(frozen=True, kw_only=True)
class AutomaticMasks:
    """An image and all masks generated for it."""

    decoded: Decoded
    records: tuple[MaskRecord, ...]


def generate_masks(
    bundle_path: Path,
    image_path: Path,
    settings: GridSettings,
    on_progress: OnProgress | None = None,
    value_range: ValueRange = "auto",
) -> AutomaticMasks:
    """Generate masks for a whole image, without a prompt; `value_range` is as in `segment`.

    Raises:
        BundleError: The bundle is damaged or lacks a component.
        ImageError: The image cannot be read.
        ToolchainMissing: The bundle's runtime is not installed.
    """
    bundle = read.read(bundle_path)
    model = bundle.model
    decoded = read_image(image_path, value_range)
    image = decoded.pixels
    if model.finds_instances:
        session = interruptible(partial(read.open_session, bundle, "segmenter"))
        found = interruptible(partial(runner.find_instances, model, session, image))
        records = automatic_masks.from_instances(found)
    else:
        encoder = interruptible(partial(read.open_session, bundle, "encoder"))
        embedded = interruptible(partial(runner.embed, model, encoder, image))
        decoder = interruptible(partial(read.open_session, bundle, "decoder"))
        records = automatic_masks.generate(model, decoder, embedded, settings, on_progress)
    return AutomaticMasks(decoded=decoded, records=records)


def save_automatic_masks(result: AutomaticMasks, path: Path) -> None:
    """Write `masks`, `scores`, `stability_scores`, `boxes` and `points` as a compressed .npz.

    Missing stability scores are NaN, missing points are (NaN, NaN).

    Raises:
        OutputError: The file cannot be written.
    """
    nan = float("nan")
    h, w = result.decoded.pixels.shape[:2]
    masks = np.zeros((len(result.records), h, w), dtype=np.bool_)
    for i, record in enumerate(result.records):
        masks[i] = record.decoded()
    data = io.BytesIO()
    np.savez_compressed(
        data,
        masks=masks,
        scores=np.asarray([f.score for f in result.records], dtype=np.float32),
        stability_scores=np.asarray(
            [nan if f.stability is None else f.stability for f in result.records], dtype=np.float32
        ),
        boxes=np.asarray([f.box for f in result.records], dtype=np.int64).reshape(-1, 4),
        points=np.asarray(
            [(nan, nan) if f.point is None else f.point for f in result.records], dtype=np.float32
        ).reshape(-1, 2),
    )
    write_whole(path, data.getvalue())


def best_of_each(predictions: Sequence[Prediction]) -> Prediction:
    """Return the best mask of each prediction, in their order, as one prediction."""
    logits = [p.low_res_masks[:1] for p in predictions if p.low_res_masks is not None]
    return Prediction(
        masks=np.concatenate([p.masks[:1] for p in predictions]),
        scores=np.concatenate([p.scores[:1] for p in predictions]),
        low_res_masks=np.concatenate(logits) if logits else None,
        indices=tuple(p.indices[0] for p in predictions),
    )


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return (x0, y0, x1, y1) of the first and last pixels of a mask HxW; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def save_masks(prediction: Prediction, path: Path) -> None:
    """Write `masks`, `scores` and `low_res_masks` as a compressed .npz, atomically.

    `low_res_masks` is left out for a model that segments instances, which takes no mask input.

    Raises:
        OutputError: The file cannot be written.
    """
    data = io.BytesIO()
    if prediction.low_res_masks is None:
        np.savez_compressed(data, masks=prediction.masks, scores=prediction.scores)
    else:
        np.savez_compressed(
            data,
            masks=prediction.masks,
            scores=prediction.scores,
            low_res_masks=prediction.low_res_masks,
        )
    write_whole(path, data.getvalue())


def load_mask_input(path: Path, size: Size) -> Float32:
    """Read the logits SxS of the best mask from a file that `save_masks` wrote.

    Args:
        path: The .npz file.
        size: Size of the model's mask logits.

    Raises:
        PromptError: The file does not exist, is damaged, or contains no finite FP32 logits of this
            size.
    """
    hint = "give a file written by `effsam run --masks`"
    height, width = sides(size)
    try:
        logits = arrays.read_member(path, "low_res_masks")
    except (OSError, ValueError) as error:
        reason = "does not exist" if not path.exists() else f"cannot be read: {error}"
        raise PromptError(f"mask file `{path}` {reason}", hint=hint) from error
    if logits is None:
        raise PromptError(f"mask file `{path}` has no `low_res_masks`", hint=hint)
    if logits.ndim != 3 or not len(logits) or logits.shape[1:] != (height, width):
        raise PromptError(
            f"mask file `{path}` holds logits of shape {list(logits.shape)}, "
            f"want Kx{height}x{width}",
            hint=hint,
        )
    try:
        return arrays.to_float32(logits[0])
    except ValueError as error:
        raise PromptError(f"mask file `{path}` holds {error}", hint=hint) from error
