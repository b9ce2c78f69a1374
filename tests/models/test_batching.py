"""Models whose first graph takes several images in one call: tensors, refusals, no mixing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import models
from effsam_export.bundle import contract
from effsam_export.config import targets as profiles
from effsam_export.errors import UsageError
from effsam_export.models import batching, fixed, image_sizes
from effsam_export.spec.batches import ANY
from tests.tiny import deterministic
from tests.tiny_vit import TINY_VIT

if TYPE_CHECKING:
    from effsam_export.spec.batches import Batch
    from effsam_export.spec.model import ModelSpec

BATCHED = [n for n in models.names() if not models.get(n).one_image]
SMALL_INPUT = {
    # One of each kind of encoder, at a size that takes a second.
    "expedit-sam-vit-b": 256,
    "mobile-sam": 128,
    "edge-sam": 64,
    "efficient-sam-ti": 128,
    "repvit-sam": 64,
    "efficientvit-sam-l0": 64,
    "fast-sam-s": 64,
}


def shapes(model: ModelSpec) -> list[dict[str, tuple[int | str, ...]]]:
    """Tensor name -> shape, for each component."""
    return [{t.name: t.shape for t in (*c.inputs, *c.outputs)} for c in model.components]


@pytest.mark.parametrize("batch", [4, ANY])
@pytest.mark.parametrize("name", BATCHED)
def test_only_the_first_graph_takes_several_images(name: str, batch: Batch) -> None:
    own = models.get(name)
    model = batching.with_batch(own, batch)
    assert (own.batch, model.batch) == (1, batch)
    first, *others = shapes(own)
    wanted = {n: (batch, *s[1:]) for n, s in first.items()}
    assert shapes(model) == [wanted, *others]
    assert shapes(batching.with_batch(model, 1)) == shapes(own)


@pytest.mark.parametrize("name", ["mobile-sam", "efficientvit-sam-l0", "fast-sam-s"])
def test_a_batch_and_a_size_in_either_order(name: str) -> None:
    own = models.get(name)
    first = batching.with_batch(image_sizes.resized(own, 640), 3)
    assert shapes(image_sizes.resized(batching.with_batch(own, 3), 640)) == shapes(first)
    assert first.components[0].inputs[0].shape == (3, 3, 640, 640)


def test_a_batch_and_slots() -> None:
    encoder, decoder = shapes(fixed.with_slots(batching.with_batch(models.get("edge-sam"), 2), 4))
    assert encoder["image_embeddings"] == (2, 256, 64, 64)
    assert decoder["image_embeddings"] == (1, 256, 64, 64)
    assert decoder["point_coords"] == (1, 4, 2)


@pytest.mark.parametrize(("text", "batch"), [("4", 4), (" 1 ", 1), ("dynamic", ANY), ("0", 0)])
def test_a_written_batch(text: str, batch: Batch) -> None:
    assert batching.parsed(text) == batch


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "4x4", "1e1", "images", "٤", "Dynamic"])
def test_a_text_that_is_no_batch(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number of images"):
        batching.in_written_batch(models.get("mobile-sam"), text)


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("mobile-sam", "0", "1 to 64 images, not 0", "--batch 1"),
        ("mobile-sam", "65", "1 to 64 images, not 65", "--batch 64"),
        ("sam-lightening", "2", "a call of `sam-lightening` takes one image", "leave out"),
        ("sam-lightening", "dynamic", "compares the windows of all images", "leave out"),
    ],
)
def test_a_batch_that_a_model_cannot_have(name: str, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        batching.in_written_batch(models.get(name), text)
    assert message in refused.value.message
    assert hint in str(refused.value.hint)


def test_one_image_is_no_change() -> None:
    for name in models.names():
        own = models.get(name)
        assert batching.in_written_batch(own, "1") is own
        assert "batch" not in contract.preprocess(own)


@pytest.mark.parametrize("name", profiles.target_names())
def test_which_targets_take_a_dynamic_batch(name: str) -> None:
    target = profiles.load_target(name)
    assert batching.target_fault(1, target) is None
    assert (batching.target_fault(2, target) is not None) == (target.layout is not None)
    fixed_shapes = target.backend in ("coreml", "tflite")
    fault = batching.target_fault(ANY, target)
    assert (fault is not None) == (fixed_shapes or target.layout is not None)


def test_the_first_axis_of_another_input_is_no_batch() -> None:
    """In the layout of an app the image may be height x width x 3."""
    component = models.get("mobile-sam").components[0]
    (image,) = component.inputs
    for other in (replace(image, name="input_image"), replace(image, shape=("height", 1024, 3))):
        assert replace(component, inputs=(other,)).batch == 1


def test_a_picture_is_one_image() -> None:
    target = profiles.load_target("coreml", None, {"image_input": "true"})
    assert batching.target_fault(1, target) is None
    fault = batching.target_fault(2, target)
    assert fault is not None
    assert "a picture, which is one image" in fault[0]


def manifest(stated: object, *shape: object) -> dict[str, Any]:
    image = {"name": "image", "shape": list(shape)}
    preprocess = {} if stated is None else {"batch": stated}
    return {"preprocess": preprocess, "components": [{"inputs": [image]}]}


def test_the_batch_of_a_bundle() -> None:
    own = models.get("mobile-sam")
    found = batching.of_manifest(own, manifest(4, 4, 3, 1024, 1024))
    assert shapes(found) == shapes(batching.with_batch(own, 4))
    dynamic = batching.of_manifest(own, manifest("dynamic", "images", 3, 1024, 1024))
    assert dynamic.batch == ANY
    assert batching.of_manifest(own, manifest(None, 1, 3, 1024, 1024)) is own
    assert batching.of_manifest(own, manifest(None, 1024, 1024, 3)) is own


@pytest.mark.parametrize(
    ("stated", "first"), [(4, 1), (None, 4), (4, "images"), ("dynamic", 4), (10**9, 10**9)]
)
def test_a_bundle_that_contradicts_itself(stated: object, first: object) -> None:
    own = models.get("mobile-sam")
    assert batching.of_manifest(own, manifest(stated, first, 3, 1024, 1024)) is own


# ------------------------------------------------------------------ the modules


def separate(model: ModelSpec, gain: float = 1.0) -> None:
    """Check that the export form gives each of two images what it gives the image alone.

    `gain` scales the matrices of weights, where activations would fade.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    built = model.build()
    state = deterministic(built.state_dict())
    built.load_state_dict({n: v * gain if v.ndim > 1 else v for n, v in state.items()})
    module = model.components[0].wrap(built)
    _, channels, height, width = model.components[0].inputs[0].shape
    images = 255 * torch.rand(2, int(channels), int(height), int(width), generator=generator)
    with torch.inference_mode():
        together = module(images)
        alone = [module(image[None]) for image in images]
    if isinstance(together, torch.Tensor):
        together, alone = (together,), [(a,) for a in alone]
    for whole, *parts in zip(together, *alone, strict=True):
        wanted = torch.cat(parts)
        assert whole.shape == wanted.shape
        scale = wanted.abs().max()
        assert (whole - wanted).abs().max() <= 1e-4 * scale
        # Two images that were equal, or mixed evenly, would pass otherwise.
        assert (wanted[0] - wanted[1]).abs().max() > 1e-3 * scale


@pytest.mark.backend
@pytest.mark.parametrize("name", SMALL_INPUT)
def test_images_of_a_call_are_not_mixed(name: str) -> None:
    pytest.importorskip("torch")
    gain = 1.5 if name == "fast-sam-s" else 1.0
    separate(image_sizes.resized(models.get(name), SMALL_INPUT[name]), gain)


@pytest.mark.backend
def test_images_of_a_call_are_not_mixed_by_a_vit() -> None:
    """In windows, with padding, and over the whole map."""
    pytest.importorskip("torch")
    separate(TINY_VIT)


@pytest.mark.backend
def test_why_sam_lightening_takes_one_image() -> None:
    torch = pytest.importorskip("torch")
    from effsam_export.models.lightening import DIM, DilatedAttention

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        attention = DilatedAttention(torch.float32).eval()
        windows = torch.randn(2, 2, 2, DIM)
        with torch.inference_mode():
            together, alone = attention(windows), attention(windows[:1])
    assert (together[:1] - alone).abs().max() > 0.01
