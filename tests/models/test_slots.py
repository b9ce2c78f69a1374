"""Decoders with empty prompt slots: the same masks as without, and the ones SAM would not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.errors import PromptError, UsageError
from effsam_export.imaging.images import check_prompt
from effsam_export.models import fixed
from effsam_export.spec.prompts import Point, Prompt, Sample
from tests.golden_weights import generator
from tests.tiny import TINY_SAM, build, write_checkpoint

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.tensors import Array, Feeds

pytestmark = pytest.mark.backend

SLOTS = 8
NOISE = 2e-5
"""In units of the output's deviation: what the same decoder gives when its sums run otherwise."""

CLICKS = [(200.0, 300.0, 1), (640.0, 90.0, 0), (11.0, 1000.0, 1), (512.0, 512.0, 1)]
CLICKS += [(77.0, 401.0, 0), (900.0, 40.0, 1), (333.0, 222.0, 0)]
BOX = (100.0, 120.0, 700.0, 650.0)
PROMPTS = {
    **{
        f"{n} points": Prompt(points=tuple(Point(x=x, y=y, label=k) for x, y, k in CLICKS[:n]))
        for n in range(1, SLOTS)
    },
    "box": Prompt(box=BOX),
    "box and point": Prompt(points=(Point(x=300, y=200),), box=BOX),
    "box and six points": Prompt(
        points=tuple(Point(x=x, y=y, label=k) for x, y, k in CLICKS[:6]), box=BOX
    ),
}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The real decoder with deterministic weights."""
    path = write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt")
    sam = build()
    sam.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return sam.eval()


def sample(prompt: Prompt, *, mask: bool = False) -> Sample:
    noise = generator(1).standard_normal((1, 256, 64, 64)).astype(np.float32)
    logits = generator(2).standard_normal((256, 256)).astype(np.float32) if mask else None
    return Sample(
        image=np.zeros((1, 1, 3), dtype=np.uint8),
        embeddings=noise,
        prompt=Prompt(points=prompt.points, box=prompt.box, mask_input=logits),
    )


def run(component: ComponentSpec, module: nn.Module, feeds: Feeds) -> dict[str, Array]:
    with torch.inference_mode():
        outputs = component.wrap(module)(
            *(torch.from_numpy(feeds[t.name]) for t in component.inputs)
        )
    return {t.name: o.numpy() for t, o in zip(component.outputs, outputs, strict=True)}


def difference(found: Array, wanted: Array) -> float:
    return float(np.abs(found - wanted).max() / wanted.std())


def decoders(model: ModelSpec, slots: int) -> tuple[ComponentSpec, ComponentSpec]:
    """The dynamic decoder and the one with slots."""
    return model.component("decoder"), fixed.with_slots(model, slots).component("decoder")


@pytest.mark.parametrize("mask", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_padded_slots_equal_unpadded_prompts(prompt: Prompt, mask: bool, module: nn.Module) -> None:
    dynamic, slotted = decoders(TINY_SAM, SLOTS)
    asked = sample(prompt, mask=mask)
    wanted = dynamic.reference(module, asked)
    found = run(slotted, module, slotted.feeds(TINY_SAM.preprocess, asked))
    assert list(found) == list(wanted)
    for name in wanted:
        assert difference(found[name], wanted[name]) < NOISE


@pytest.mark.parametrize("slots", [2, 3, 5, 16, 64])
def test_any_number_of_slots(slots: int, module: nn.Module) -> None:
    dynamic, slotted = decoders(TINY_SAM, slots)
    asked = sample(PROMPTS["1 points"])
    wanted = dynamic.reference(module, asked)
    found = run(slotted, module, slotted.feeds(TINY_SAM.preprocess, asked))
    assert difference(found["low_res_masks"], wanted["low_res_masks"]) < NOISE


def test_what_lies_in_an_empty_slot_does_not_matter(module: nn.Module) -> None:
    _, slotted = decoders(TINY_SAM, SLOTS)
    feeds = dict(slotted.feeds(TINY_SAM.preprocess, sample(PROMPTS["box"])))
    clean = run(slotted, module, feeds)["low_res_masks"]
    feeds["point_coords"] = np.where(
        feeds["point_labels"][..., None] == -2, 777.0, feeds["point_coords"]
    )
    feeds["point_coords"] = feeds["point_coords"].astype(np.float32)
    np.testing.assert_array_equal(run(slotted, module, feeds)["low_res_masks"], clean)


def test_empty_slots_may_stand_anywhere(module: nn.Module) -> None:
    _, slotted = decoders(TINY_SAM, SLOTS)
    feeds = dict(slotted.feeds(TINY_SAM.preprocess, sample(PROMPTS["2 points"])))
    wanted = run(slotted, module, feeds)["low_res_masks"]
    order = [7, 0, 3, 1, 4, 5, 2, 6]
    for name in ("point_coords", "point_labels"):
        feeds[name] = np.ascontiguousarray(feeds[name][:, order])
    assert difference(run(slotted, module, feeds)["low_res_masks"], wanted) < NOISE


def test_filling_up_with_padding_points_would_change_the_masks(module: nn.Module) -> None:
    """The reason for a label of its own: -1 is a token that the others see."""
    dynamic, _ = decoders(TINY_SAM, SLOTS)
    feeds = dict(dynamic.feeds(TINY_SAM.preprocess, sample(PROMPTS["1 points"])))
    wanted = run(dynamic, module, feeds)["low_res_masks"]
    feeds["point_coords"] = np.pad(feeds["point_coords"], ((0, 0), (0, 6), (0, 0)))
    feeds["point_labels"] = np.pad(feeds["point_labels"], ((0, 0), (0, 6)), constant_values=-1)
    assert difference(run(dynamic, module, feeds)["low_res_masks"], wanted) > 1e3 * NOISE


def test_edge_sam_keeps_its_third_output() -> None:
    model = fixed.with_slots(models.get("edge-sam"), 4)
    decoder = model.component("decoder")
    assert [t.name for t in decoder.outputs][-1] == "stability_scores"
    assert decoder.outputs[-1].shape == (1, 4)
    sam = model.build()
    feeds = decoder.feeds(model.preprocess, sample(PROMPTS["box"]))
    assert set(run(decoder, sam, feeds)) == {t.name for t in decoder.outputs}


@pytest.mark.parametrize("name", models.names())
def test_every_shape_of_every_model_becomes_a_number(name: str) -> None:
    model = fixed.with_slots(models.get(name), SLOTS)
    for component in model.components:
        assert component.fixed is None
        for tensor in (*component.inputs, *component.outputs):
            assert all(isinstance(s, int) for s in tensor.shape), (component.name, tensor.name)
        example = component.example()
        for tensor in component.inputs:
            assert tuple(example[tensor.name].shape) == tensor.shape


@pytest.mark.parametrize(
    ("name", "most", "slots"),
    [("mobile-sam", 7, 8), ("efficient-sam-ti", 6, None), ("fast-sam-s", None, None)],
)
def test_prompts_that_have_room(name: str, most: int | None, slots: int | None) -> None:
    prompts = fixed.with_slots(models.get(name), SLOTS).prompts
    assert (prompts.max_points, prompts.slots) == (most, slots)


def test_a_prompt_with_too_many_points_is_refused() -> None:
    model = fixed.with_slots(TINY_SAM, 3)
    with pytest.raises(PromptError, match="this model takes 2 points, not 3"):
        check_prompt(PROMPTS["3 points"], (1024, 1024), model.prompts)


@pytest.mark.parametrize("slots", [-1, 0, 1, 65])
def test_invalid_numbers_of_slots_are_refused(slots: int) -> None:
    with pytest.raises(UsageError, match=f"slots={slots} is not from 2 to 64"):
        fixed.with_slots(TINY_SAM, slots)


def test_a_target_without_slots_gets_the_model_as_it_is() -> None:
    assert fixed.for_options(TINY_SAM, {"provider": "CPUExecutionProvider"}) is TINY_SAM


@pytest.mark.parametrize(
    ("text", "wanted"), [("", ()), ("2", (2,)), ("2 4", (2, 4)), ("4, 2,16", (4, 2, 16))]
)
def test_further_numbers_of_slots(text: str, wanted: tuple[int, ...]) -> None:
    assert fixed.further_slots({"slots": 8, "functions": text}) == wanted


@pytest.mark.parametrize("text", ["two", "2 2", "8", "1", "4 65"])
def test_invalid_values_of_functions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="has to be numbers from 2 to 64, each once"):
        fixed.further_slots({"slots": 8, "functions": text})
