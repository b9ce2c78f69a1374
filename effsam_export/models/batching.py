"""Models whose first graph takes several images in one call (`--batch`)."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export.errors import UsageError, shown
from effsam_export.spec.batches import ANY, DYNAMIC, IMAGE, from_document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from effsam_export.spec.batches import Batch
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.spec.tensors import TensorSpec

MAX_BATCH = 64
"""Images. The memory of a call grows with them."""
TRACED = 2
"""Number of images in the trace of a dynamic batch, as size 1 is special."""
WRITTEN = re.compile(r"[0-9]{1,9}", re.ASCII)


def parsed(text: str) -> Batch | None:
    """Return the batch that a person wrote, `4` or `dynamic`; None if it is not one."""
    text = text.strip(" ")
    if text == DYNAMIC:
        return ANY
    return int(text) if WRITTEN.fullmatch(text) else None


def in_written_batch(model: ModelSpec, text: str) -> ModelSpec:
    """Return the model with the batch that a person wrote.

    Raises:
        UsageError: Not a batch, or the model cannot have it.
    """
    batch = parsed(text)
    if batch is None:
        raise UsageError(
            f"--batch `{shown(text)}` is not a number of images",
            hint="examples: --batch 4, or --batch dynamic for any number",
        )
    fault = batch_fault(model, batch)
    if fault is not None:
        raise UsageError(fault[0], hint=fault[1])
    return with_batch(model, batch)


def batch_fault(model: ModelSpec, batch: Batch) -> tuple[str, str] | None:
    """Return why a model cannot have a batch, and a hint; None if it can."""
    if batch != 1 and model.one_image:
        return (
            f"a call of `{model.name}` takes one image: {model.one_image}",
            "leave out --batch",
        )
    if isinstance(batch, int) and not 1 <= batch <= MAX_BATCH:
        near = min(max(batch, 1), MAX_BATCH)
        return (
            f"a batch has to be 1 to {MAX_BATCH} images, not {batch}",
            f"use --batch {near}, or --batch {DYNAMIC}",
        )
    return None


def target_fault(batch: Batch, target: TargetProfile) -> tuple[str, str] | None:
    """Return why the graphs of a target cannot have a batch, and a hint; None if they can."""
    if batch != 1 and target.layout is not None:
        return (
            f"target `{target.name}` is for an app that gives its encoder one image",
            "leave out --batch",
        )
    if batch != 1 and target.options.get("image_input"):
        return (
            f"target `{target.name}` takes the image as a picture, which is one image",
            "leave out --batch, or the target option `image_input`",
        )
    entry = backends.BACKENDS[target.backend]
    if not isinstance(batch, int) and entry.fixed_shapes:
        return (
            f"target `{target.name}` takes fixed shapes only, not a {DYNAMIC} batch",
            "give a number of images, as in --batch 4",
        )
    return None


def with_batch(model: ModelSpec, batch: Batch) -> ModelSpec:
    """Return the model whose first graph takes `batch` images in one call.

    A decoder takes the embedding of one image.
    """
    if batch == model.batch:
        return model
    first, *others = model.components
    return replace(model, components=(_component(first, batch), *others))


def _component(component: ComponentSpec, batch: Batch) -> ComponentSpec:
    count = batch if isinstance(batch, int) else TRACED
    return replace(
        component,
        inputs=tuple(_tensor(t, batch) for t in component.inputs),
        outputs=tuple(_tensor(t, batch) for t in component.outputs),
        example=partial(_example, component.example, count),
    )


def _tensor(tensor: TensorSpec, batch: Batch) -> TensorSpec:
    return replace(tensor, shape=(batch, *tensor.shape[1:]))


def _example(example: Callable[[], Mapping[str, Any]], count: int) -> Mapping[str, Any]:
    """Return the tracing inputs with the first image `count` times."""
    return {
        name: tensor[:1].repeat(count, *[1] * (tensor.ndim - 1))
        for name, tensor in example().items()
    }


def of_manifest(model: ModelSpec, manifest: Mapping[str, Any]) -> ModelSpec:
    """Return the model with the batch of a bundle.

    It is unchanged where the manifest contradicts itself, or states a batch that the model cannot
    have: a bundle's graphs and manifest are held to the model later.
    """
    batch = from_document(manifest["preprocess"].get("batch", 1))
    tensors = [t for c in manifest["components"] for t in c["inputs"] if t["name"] == IMAGE]
    counts = [t["shape"][0] for t in tensors if len(t["shape"]) == 4]
    if batch == model.batch or any(c != batch for c in counts) or batch_fault(model, batch):
        return model
    return with_batch(model, batch)
