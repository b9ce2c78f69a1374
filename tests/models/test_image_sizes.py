"""Models with another size of input: their tensors, position tables, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import models
from effsam_export.errors import UsageError
from effsam_export.models import fixed, image_sizes

if TYPE_CHECKING:
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.sizes import Size

RESIZABLE = [n for n in models.names() if models.get(n).sizes is not None]
SAM_LIKE = [n for n in RESIZABLE if not n.startswith(("fast-sam", "efficient"))]


def shapes(model: ModelSpec) -> dict[str, tuple[int | str, ...]]:
    """Tensor name -> shape, over all components; a tensor of two components has one shape."""
    found: dict[str, tuple[int | str, ...]] = {}
    for component in model.components:
        for tensor in (*component.inputs, *component.outputs):
            assert found.setdefault(tensor.name, tensor.shape) == tensor.shape
    return found


def test_which_models_have_one_size() -> None:
    assert set(models.names()) - set(RESIZABLE) == {"sam-lightening"}


@pytest.mark.parametrize("name", SAM_LIKE)
def test_tensors_of_a_sam(name: str) -> None:
    model = image_sizes.resized(models.get(name), 512)
    found = shapes(model)
    assert found["image"] == (1, 3, 512, 512)
    assert found["image_embeddings"] == (1, 256, 32, 32)
    assert found["mask_input"] == ("prompts", 1, 128, 128)
    assert found["low_res_masks"] == ("prompts", 4, 128, 128)
    assert (model.preprocess.image_size, model.preprocess.prompt_size) == (512, 512)
    assert model.masks == replace(models.get(name).masks, low_res_size=128)
    assert "longest side 512" in model.component("encoder").inputs[0].description


@pytest.mark.parametrize("name", ["efficientvit-sam-l0", "efficientvit-sam-xl1"])
def test_an_encoder_whose_neck_resizes(name: str) -> None:
    own = models.get(name)
    model = image_sizes.resized(own, 768)
    assert shapes(model) == {**shapes(own), "image": (1, 3, 768, 768)}
    assert model.preprocess == replace(own.preprocess, image_size=768)
    assert model.masks == own.masks


def test_tensors_of_efficient_sam() -> None:
    model = image_sizes.resized(models.get("efficient-sam-ti"), 512)
    found = shapes(model)
    assert found["image"] == (1, 3, 512, 512)
    assert found["image_embeddings"] == (1, 256, 32, 32)
    assert found["low_res_masks"] == ("prompts", 3, 128, 128)
    assert "both sides resized to 512" in model.component("encoder").inputs[0].description


def test_tensors_of_a_rectangle() -> None:
    model = image_sizes.resized(models.get("mobile-sam"), (1024, 768))
    found = shapes(model)
    assert found["image"] == (1, 3, 1024, 768)
    assert found["image_embeddings"] == (1, 256, 64, 48)
    assert found["low_res_masks"] == ("prompts", 4, 256, 192)
    assert model.masks.low_res_size == (256, 192)
    assert "resized to fit 1024x768" in model.component("encoder").inputs[0].description


def test_a_rectangle_of_equal_sides_is_a_square() -> None:
    assert image_sizes.parsed("512x512") == image_sizes.parsed("512") == 512
    assert image_sizes.parsed("1024x768") == (1024, 768)


@pytest.mark.parametrize(
    "text", ["", "x", "512x", "x512", "5 12", "512x512x3", "1e3", "-512", "٥١٢"]
)
def test_a_text_that_is_no_size(text: str) -> None:
    assert image_sizes.parsed(text) is None


def test_tensors_of_fast_sam() -> None:
    found = shapes(image_sizes.resized(models.get("fast-sam-s"), 640))
    assert found["image"] == (1, 3, 640, 640)
    assert found["boxes"] == (1, 80 * 80 + 40 * 40 + 20 * 20, 4)
    assert found["prototypes"] == (1, 32, 160, 160)
    rectangle = shapes(image_sizes.resized(models.get("fast-sam-s"), (640, 320)))
    assert rectangle["image"] == (1, 3, 640, 320)
    assert rectangle["boxes"] == (1, 80 * 40 + 40 * 20 + 20 * 10, 4)
    assert rectangle["prototypes"] == (1, 32, 160, 80)


@pytest.mark.parametrize("name", RESIZABLE)
def test_the_own_size_gives_the_own_tensors(name: str) -> None:
    own = models.get(name)
    assert own.sizes is not None
    assert own.sizes.own == own.preprocess.image_size
    for model in (own, image_sizes.resized(own, 512)):
        again = image_sizes.resized(model, own.preprocess.image_size)
        assert shapes(again) == shapes(own)
        assert (again.preprocess, again.masks) == (own.preprocess, own.masks)


def test_slots_of_another_size() -> None:
    model = fixed.with_slots(image_sizes.resized(models.get("edge-sam"), 512), 4)
    found = shapes(model)
    assert found["point_coords"] == (1, 4, 2)
    assert found["mask_input"] == (1, 1, 128, 128)
    assert found["stability_scores"] == (1, 4)


@pytest.mark.parametrize(
    ("name", "size", "message", "hint"),
    [
        ("mobile-sam", 500, "a multiple of 16 from 64 to 2048 pixels, not 500", "496"),
        ("mobile-sam", 0, "not 0", "64"),
        ("sam-vit-b", 10**9, "not 1000000000", "2048"),
        ("edge-sam", 528, "a multiple of 32", "512"),
        ("efficientvit-sam-xl0", 480, "a multiple of 64", "512"),
        ("fast-sam-x", 1000, "a multiple of 32", "992"),
        ("mobile-sam", (1000, 3), "not 1000x3", "992x64"),
        ("efficientvit-sam-l0", (512, 256), "has to be a square, not 512x256", "512"),
        ("efficient-sam-ti", (512, 256), "has to be a square, not 512x256", "512"),
        ("sam-lightening", 512, "cannot be changed: its input has 1024 pixels", "leave out"),
    ],
)
def test_a_size_that_does_not_fit(name: str, size: Size, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        image_sizes.resized(models.get(name), size)
    assert message in refused.value.message
    assert hint in str(refused.value.hint)


def manifest(stated: object, *shape: int) -> dict[str, Any]:
    image = {"name": "image", "shape": list(shape)}
    return {"preprocess": {"image_size": stated}, "components": [{"inputs": [image]}]}


def test_the_size_of_a_bundle() -> None:
    own = models.get("sam-vit-b")
    found = image_sizes.of_manifest(own, manifest(256, 1, 3, 256, 256))
    assert found.preprocess.image_size == 256
    assert found.fit is not None
    picture = image_sizes.of_manifest(own, manifest([256, 512], 256, 512, 3))
    assert picture.preprocess.image_size == (256, 512)
    same = image_sizes.of_manifest(own, manifest(1024, 1, 3, 1024, 1024))
    assert same.components == own.components
    assert same.fit is not None


@pytest.mark.parametrize(
    ("stated", "height", "width"),
    [
        (512, 1024, 1024),
        (1024, 512, 512),
        (500, 500, 500),
        (10**9, 10**9, 10**9),
        ([512, 256], 256, 512),
    ],
)
def test_a_bundle_that_contradicts_itself(stated: object, height: int, width: int) -> None:
    own = models.get("sam-vit-b")
    assert image_sizes.of_manifest(own, manifest(stated, 1, 3, height, width)) is own


# ------------------------------------------------------------------ position tables


@pytest.mark.backend
def test_position_tables_are_resized_as_the_authors_resize_them() -> None:
    torch = pytest.importorskip("torch")
    from effsam_export.models.vit import relative_table
    from effsam_export.models.vit_tables import fitted, size_of

    generator = torch.Generator().manual_seed(0)
    state = {
        "image_encoder.pos_embed": torch.randn(1, 64, 64, 8, generator=generator),
        "image_encoder.blocks.0.attn.rel_pos_h": torch.randn(27, 4, generator=generator),
        "image_encoder.blocks.1.attn.rel_pos_h": torch.randn(127, 4, generator=generator),
        "image_encoder.blocks.1.attn.rel_pos_w": torch.randn(127, 4, generator=generator),
        "image_encoder.neck.0.weight": torch.randn(3, generator=generator),
    }
    assert size_of(state) == 1024
    fit = partial(fitted, (1,), 512)
    found = fit(state)
    assert found.keys() == state.keys()
    assert size_of(found) == 512
    assert all(found[n] is state[n] for n in state if ".1." not in n and "pos_embed" not in n)
    wanted = torch.nn.functional.interpolate(
        state["image_encoder.pos_embed"].permute(0, 3, 1, 2), size=(32, 32), mode="bicubic"
    )
    assert torch.equal(found["image_encoder.pos_embed"].permute(0, 3, 1, 2), wanted)
    for axis in "hw":
        name = f"image_encoder.blocks.1.attn.rel_pos_{axis}"
        # The authors interpolate at every call.
        assert torch.equal(relative_table(found[name], 32), relative_table(state[name], 32))
    assert all(fit(found)[name] is found[name] for name in found)

    wide = fitted((1,), (512, 256), state)
    assert size_of(wide) == (512, 256)
    rows = [wide[f"image_encoder.blocks.1.attn.rel_pos_{axis}"].shape[0] for axis in "hw"]
    assert rows == [63, 31]


@pytest.mark.backend
def test_a_map_of_one_window_keeps_the_tables_of_its_windows() -> None:
    torch = pytest.importorskip("torch")
    from effsam_export.models.vit_tables import fitted, size_of

    state = {
        "image_encoder.pos_embed": torch.zeros(1, 14, 14, 8),
        "image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(27, 4),
        "image_encoder.blocks.1.attn.rel_pos_h": torch.zeros(27, 4),
    }
    assert size_of(state) == 224
    found = fitted((1,), 448, state)
    rows = {name: table.shape[0] for name, table in found.items() if "rel_pos" in name}
    assert list(rows.values()) == [27, 55]


@pytest.mark.backend
def test_a_state_dict_without_a_map_shows_no_size() -> None:
    torch = pytest.importorskip("torch")
    from effsam_export.models.vit_tables import size_of

    assert size_of({}) is None
    assert size_of({"image_encoder.pos_embed": torch.zeros(1, 197, 8)}) is None
    assert size_of({"image_encoder.pos_embed": torch.zeros(1, 14, 16, 8)}) == (224, 256)
