"""Parity of a graph that takes several images: every slot, with different images in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.models.batching import with_batch
from effsam_export.parity import slots
from effsam_export.parity.check import check
from effsam_export.parity.comparison import Sides
from effsam_export.parity.evaluation_set import EvaluationSet
from effsam_export.spec.batches import ANY
from tests.small import SMALL_SAM
from tests.tiny_instances import TINY_INSTANCES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from effsam_export.parity.check import ParityResult
    from effsam_export.spec.batches import Batch
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.tensors import Feeds

    Change = Callable[[Feeds], Feeds]

PROMPTS = """
[[images]]
file = "first.png"
prompts = [{ name = "point", points = [[60, 40, 1]] }]
[[images]]
file = "second.png"
prompts = [{ name = "box", box = [10, 10, 90, 60] }]
"""


# ------------------------------------------------------------------ which images are in the slots


def image_at(number: int) -> slots.Image:
    """An image whose columns are all different, and which differs from the others."""
    columns = np.arange(12, dtype=np.uint8) + 100 * number
    return np.tile(columns[None, :, None], (4, 1, 3))


def places(batch: Batch, number: int, count: int) -> list[list[tuple[int, int]]]:
    """(image, columns by which it is shifted) in each slot of each call."""
    found = slots.calls(batch, number, count, image_at)
    for call in found:
        np.testing.assert_array_equal(call.images[call.own], image_at(number))
    return [[divmod(int(i[0, 0, 0]), 100) for i in call.images] for call in found]


def test_one_image() -> None:
    assert places(1, 2, 3) == [[(2, 0)]]


def test_every_image_has_another_slot() -> None:
    assert places(3, 0, 3) == [[(0, 0), (1, 0), (2, 0)]]
    assert places(3, 1, 3) == [[(0, 0), (1, 0), (2, 0)]]
    assert [slots.calls(3, n, 3, image_at)[0].own for n in range(3)] == [0, 1, 2]
    assert places(2, 2, 3) == [[(2, 0), (0, 0)]]


def test_more_slots_than_images() -> None:
    """Each slot holds something else: images come again, shifted."""
    (found,) = places(5, 1, 2)
    assert found == [(1, 4), (1, 0), (0, 0), (1, 8), (0, 8)]
    (alone,) = places(3, 0, 1)
    assert alone == [(0, 0), (0, 8), (0, 4)]


def test_a_dynamic_batch_has_one_image_and_two() -> None:
    assert places(ANY, 1, 2) == [[(1, 0)], [(0, 0), (1, 0)]]


# ------------------------------------------------------------------ graphs that are wrong


class Module:
    """A session that runs the export form of a component in PyTorch."""

    def __init__(self, module: nn.Module, spec: ComponentSpec, change: Change) -> None:
        self._module, self._spec, self._change = spec.wrap(module), spec, change
        self.counts: list[int] = []

    def run(self, feeds: Feeds) -> Feeds:
        import torch

        self.counts.append(len(feeds["image"]) if "image" in feeds else 1)
        with torch.inference_mode():
            found = self._module(*(torch.from_numpy(feeds[t.name]) for t in self._spec.inputs))
        values = [found] if isinstance(found, torch.Tensor) else found
        outputs = zip(self._spec.outputs, values, strict=True)
        return self._change({t.name: v.numpy() for t, v in outputs})


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSet:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for name in ("first", "second"):
        image = generator.integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "parity.toml").write_text(PROMPTS, "utf-8")
    return EvaluationSet(images=load_parity_images(folder / "parity.toml"))


def unchanged(outputs: Feeds) -> Feeds:
    return outputs


def checked(
    model: ModelSpec, evaluation: EvaluationSet, change: Change = unchanged, *parts: str
) -> tuple[ParityResult, dict[str, Module]]:
    """Compare a model with itself, where its first graph's outputs are changed."""
    module = model.build()
    first = model.components[0].name
    artifacts: dict[str, Module] = {
        c.name: Module(module, c, change if c.name == first else unchanged)
        for c in model.components
        if not parts or c.name in parts
    }
    sources: dict[str, Module] = {c.name: Module(module, c, unchanged) for c in model.components}
    target = profiles.load_target("onnx", "fp32")
    result = check(
        model,
        Sides(module=module, sources=sources, artifacts=artifacts),
        evaluation,
        target=target.name,
        precision=target.precision,
        gates=target.gates,
    )
    return result, artifacts


@pytest.mark.backend
def test_every_slot_is_compared_and_passes(evaluation: EvaluationSet) -> None:
    result, artifacts = checked(with_batch(SMALL_SAM, 3), evaluation)
    assert result.report.failures == ()
    assert artifacts["encoder"].counts == [3, 3]
    encoder = [c.case for c in result.report.comparisons if c.component == "encoder"]
    assert encoder == [
        f"{name}, slot {i} of 3" for name in ("first", "second") for i in (1, 1, 2, 2, 3, 3)
    ]
    # The golden vectors are those of the images alone.
    alone, _ = checked(SMALL_SAM, evaluation)
    assert [c.case for c in alone.report.comparisons[:2]] == ["first", "first"]
    for one, other in zip(result.expected, alone.expected, strict=True):
        np.testing.assert_array_equal(one.cases[0].scores, other.cases[0].scores)


@pytest.mark.backend
def test_a_dynamic_batch_is_compared_with_one_image_and_two(evaluation: EvaluationSet) -> None:
    result, artifacts = checked(with_batch(SMALL_SAM, ANY), evaluation)
    assert result.report.failures == ()
    assert artifacts["encoder"].counts == [1, 2, 1, 2]


def swapped(outputs: Feeds) -> Feeds:
    return {n: v[::-1].copy() for n, v in outputs.items()}


def mixed(outputs: Feeds) -> Feeds:
    return {n: v + 0.1 * v.mean(0, keepdims=True) for n, v in outputs.items()}


def last_is_first(outputs: Feeds) -> Feeds:
    return {n: np.concatenate([v[:-1], v[:1]]) for n, v in outputs.items()}


def shorter(outputs: Feeds) -> Feeds:
    return {n: v[:1] for n, v in outputs.items()}


@pytest.mark.backend
@pytest.mark.parametrize("batch", [2, 3, ANY])
@pytest.mark.parametrize("change", [swapped, mixed, last_is_first])
def test_mixed_slots_fail(evaluation: EvaluationSet, batch: Batch, change: Change) -> None:
    def several(outputs: Feeds) -> Feeds:
        return change(outputs) if len(outputs["image_embeddings"]) > 1 else outputs

    result, _ = checked(with_batch(SMALL_SAM, batch), evaluation, several)
    assert any("ONNX -> artefact, encoder" in f for f in result.report.failures)


@pytest.mark.backend
def test_a_batch_that_is_too_short_fails(evaluation: EvaluationSet) -> None:
    result, _ = checked(with_batch(SMALL_SAM, 2), evaluation, shorter)
    assert any("ONNX -> artefact, encoder" in f for f in result.report.failures)


@pytest.mark.backend
def test_a_decoder_alone_needs_no_batch(evaluation: EvaluationSet) -> None:
    result, _ = checked(with_batch(SMALL_SAM, 3), evaluation, unchanged, "decoder")
    assert result.report.failures == ()
    assert {c.component for c in result.report.comparisons} == {"decoder"}


@pytest.mark.backend
def test_a_model_that_finds_instances(evaluation: EvaluationSet) -> None:
    model = with_batch(TINY_INSTANCES, 2)
    assert checked(model, evaluation)[0].report.failures == ()
    result, _ = checked(model, evaluation, swapped)
    assert any("everything" in f for f in result.report.failures)
    assert any("slot 2 of 2" in f for f in result.report.failures)


def test_a_tensor_of_another_size_is_left_whole() -> None:
    outputs = {"a": np.zeros((2, 3)), "b": np.zeros((5, 3)), "c": np.float32(1.0) * np.ones(())}
    found = slots.of_slot(outputs, 1, 2)
    assert {n: v.shape for n, v in found.items()} == {"a": (1, 3), "b": (5, 3), "c": ()}
