"""The size of input that a checkpoint was trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.models import image_sizes
from effsam_export.spec.sizes import text_of

if TYPE_CHECKING:
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.weights.read import Weights


def of_checkpoint(
    model: ModelSpec, checkpoint: Checkpoint, weights: Weights | None = None
) -> ModelSpec:
    """Return the model in the size that the position tables of a checkpoint, or its base, show.

    It is unchanged where no table shows a size, and where the model cannot have that size: loading
    then says how the tables differ.

    Args:
        model: In the size of its official weights.
        checkpoint: The weight file.
        weights: Its tensors, where they have been read.

    Raises:
        CheckpointError: The file cannot be read, or holds no weights.
    """
    if checkpoint.official or model.sizes is None or model.sizes.of_state is None:
        return model
    from effsam_export.weights.read import read

    sized = _of_weights(model, weights or read(checkpoint.path, checkpoint.key))
    if sized is model and checkpoint.base is not None and not checkpoint.base.official:
        sized = _of_weights(model, read(checkpoint.base.path))
    return sized


def _of_weights(model: ModelSpec, weights: Weights) -> ModelSpec:
    """Return the model in the size that position tables show; unchanged as in `of_checkpoint`."""
    assert model.sizes is not None
    assert model.sizes.of_state is not None
    from effsam_export.weights import checkpoint as loading
    from effsam_export.weights import placement

    names = loading.outline(model, weights.state).state_dict()
    size = model.sizes.of_state(placement.placed(weights, names))
    if size is None or size == model.preprocess.image_size or image_sizes.size_fault(model, size):
        return model
    return image_sizes.resized(model, size)


def note_on(model: ModelSpec, sized: ModelSpec, checkpoint: Checkpoint) -> str | None:
    """Return a sentence on the size that was taken for a checkpoint; None if there is no doubt.

    Args:
        model: Before `of_checkpoint`.
        sized: Its result.
        checkpoint: The weights.
    """
    name, size = checkpoint.path.name, text_of(sized.preprocess.image_size)
    if sized is not model:
        return f"the position tables of `{name}` are for {size} pixels"
    # No tensor of a convolutional model depends on the size.
    if not checkpoint.official and model.sizes is not None and model.sizes.of_state is None:
        return (
            f"a checkpoint of {model.name} does not show the size of its images: {size} pixels is "
            "taken; --image-size N takes another"
        )
    return None
