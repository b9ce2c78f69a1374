"""Segment the images of a run with one opened bundle. No torch."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.errors import ImageError
from effsam_export.imaging.decode import read_image
from effsam_export.inference import embeddings, found
from effsam_export.inference.predictor import Predictor
from effsam_export.inference.run_records import ImageResult
from effsam_export.util.signals import interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from effsam_export.bundle.read import Bundle
    from effsam_export.imaging.pixels import Decoded
    from effsam_export.inference.found import FoundMask
    from effsam_export.inference.run_records import ImageTask, RunSettings
    from effsam_export.spec.tensors import Feeds
    from effsam_export.util.progress import OnProgress


LOG = logging.getLogger(__name__)


def segment_images(
    bundle: Bundle,
    tasks: Sequence[ImageTask],
    settings: RunSettings,
    on_progress: OnProgress | None = None,
) -> Iterator[ImageResult | ImageError]:
    """Yield the result of each image, or the error of one that cannot be read.

    The bundle is opened once, after the first image was read. Each image is encoded once.

    Args:
        bundle: The bundle.
        tasks: The images with their checked prompts.
        settings: What is the same for all images.
        on_progress: Called with (finished prompts, all prompts) of the image.

    Raises:
        BundleError: The bundle is damaged or lacks a component.
        ToolchainMissing: The bundle's runtime is not installed.
    """
    predictor: Predictor | None = None
    # The crops of a grid are encoded, whatever is known of the whole image.
    crops = settings.grid is not None and settings.grid.crop_layers > 0
    encoder = crops or any(task.embedding is None for task in tasks)
    try:
        for task in tasks:
            embedding = None
            try:
                decoded = read_image(task.path, settings.value_range)
                height, width = decoded.pixels.shape[:2]
                count = len(task.prompts)
                LOG.debug("%s: %d x %d pixels, %d prompts", task.path, width, height, count)
                if task.embedding is not None:
                    embedding = embeddings.load(
                        task.embedding, decoded.pixels, bundle.model, settings.encoder_sha256
                    )
            except ImageError as error:
                yield error
                continue
            predictor = predictor or interruptible(partial(Predictor, bundle.path, encoder=encoder))
            yield segment_image(predictor, task, decoded, settings, embedding, on_progress)
    finally:
        if predictor is not None:
            predictor.close()


def segment_image(
    predictor: Predictor,
    task: ImageTask,
    decoded: Decoded,
    settings: RunSettings,
    embedding: Feeds | None = None,
    on_progress: OnProgress | None = None,
) -> ImageResult:
    """Return the masks of one image; an `embedding` replaces the encoder. See `segment_images`."""
    encode_s = None
    if embedding is None:
        start = time.perf_counter()
        interruptible(partial(predictor.set_image, decoded.pixels))
        encode_s = time.perf_counter() - start
    else:
        predictor.set_embedding(decoded.pixels, embedding)
    masks: list[FoundMask] = []
    decode_s = 0.0
    if settings.grid is not None:
        start = time.perf_counter()
        records = predictor.records(settings.grid, on_progress)
        decode_s = time.perf_counter() - start
        masks += [found.of_record(record) for record in records]
    all_masks = len(task.prompts) == 1 and not settings.several
    for number, item in enumerate(task.prompts, start=1):
        start = time.perf_counter()
        prediction = interruptible(
            partial(
                predictor.answer,
                item.prompt,
                single_mask=settings.single_mask,
                only_best=not all_masks,
            )
        )
        decode_s += time.perf_counter() - start
        masks += found.of_prediction(prediction, number)
        if on_progress is not None:
            on_progress(number, len(task.prompts))
    return ImageResult(
        task=task,
        decoded=decoded,
        masks=tuple(masks),
        embedding=None if predictor.finds_instances else predictor.get_embedding(),
        encode_s=encode_s,
        decode_s=decode_s,
    )
