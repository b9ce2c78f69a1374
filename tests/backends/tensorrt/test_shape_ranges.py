"""The shape ranges of an engine cover every prompt of a target."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from effsam_export import backends, models
from effsam_export.backends.tensorrt import shape_ranges
from effsam_export.backends.tensorrt.shape_ranges import Range, document, ranges, set_profile, sizes
from effsam_export.config import targets as profiles
from effsam_export.errors import UsageError
from effsam_export.models.batching import with_batch
from effsam_export.models.efficient_sam import components as efficient_sam
from effsam_export.models.sam.components import SAM_DECODER, SAM_ENCODER
from effsam_export.spec.batches import ANY
from effsam_export.spec.tensors import TensorSpec

if TYPE_CHECKING:
    from effsam_export.spec.model import ComponentSpec

NVIDIA = ("tensorrt-rtx", "tensorrt", "jetson-orin")


def covers(found: Range, shape: tuple[int, ...]) -> bool:
    """Whether a shape lies in a range."""
    return len(shape) == len(found.minimum) and all(
        low <= n <= high for low, n, high in zip(found.minimum, shape, found.maximum, strict=True)
    )


def test_defaults() -> None:
    assert sizes({}) == {"images": (1, 1, 8), "prompts": (1, 1, 64), "points": (1, 2, 16)}


def test_options_set_the_ranges() -> None:
    options = {"max_prompts": 8, "opt_prompts": 4, "max_points": 5, "opt_points": 3}
    found = sizes({**options, "max_images": 4, "opt_images": 2})
    assert found == {"images": (1, 2, 4), "prompts": (1, 4, 8), "points": (1, 3, 5)}


def test_a_dynamic_batch() -> None:
    spec = with_batch(models.get("mobile-sam"), ANY).components[0]
    found = ranges(spec, {"max_images": 16})["image"]
    assert (found.minimum[0], found.opt[0], found.maximum[0]) == (1, 1, 16)
    assert found.minimum[1:] == found.maximum[1:] == (3, 1024, 1024)
    with pytest.raises(UsageError, match="`opt_images` is 9, must be 1 to `max_images`, 8"):
        ranges(spec, {"opt_images": 9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_points": 0}, "`max_points` is 0, must be 1 to 1024"),
        ({"max_prompts": 1025}, "`max_prompts` is 1025, must be 1 to 1024"),
        ({"opt_points": 17}, "`opt_points` is 17, must be 1 to `max_points`, 16"),
        ({"opt_prompts": 0}, "`opt_prompts` is 0, must be 1 to `max_prompts`, 64"),
        (
            {"max_prompts": -1, "opt_points": 99},
            "`max_prompts` is -1, must be 1 to 1024; "
            "`opt_points` is 99, must be 1 to `max_points`, 16",
        ),
    ],
)
def test_invalid_sizes_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        sizes(options)
    assert caught.value.message == message
    assert caught.value.hint == "change them in the target's options"


def test_decoder() -> None:
    found = ranges(SAM_DECODER, {"max_prompts": 4, "max_points": 6})
    assert list(found) == [t.name for t in SAM_DECODER.inputs]
    assert found["point_coords"] == Range(minimum=(1, 1, 2), opt=(1, 2, 2), maximum=(4, 6, 2))
    assert found["mask_input"].maximum == (4, 1, 256, 256)
    assert found["has_mask_input"] == Range(minimum=(1,), opt=(1,), maximum=(4,))
    assert not found["image_embeddings"].dynamic


def test_encoder_is_fixed() -> None:
    (image,) = ranges(SAM_ENCODER, {}).values()
    assert image == Range(
        minimum=(1, 3, 1024, 1024), opt=(1, 3, 1024, 1024), maximum=(1, 3, 1024, 1024)
    )
    assert not image.dynamic


def test_dimension_without_a_range() -> None:
    strange = (TensorSpec(name="x", shape=("rows", "prompts", "columns")),)
    component = replace(SAM_DECODER, inputs=strange)
    with pytest.raises(UsageError) as caught:
        ranges(component, {})
    assert (
        caught.value.message
        == "decoder: no target option sets the range of dimension `columns`, `rows`"
    )


@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize(
    "component", [SAM_DECODER, efficient_sam.DECODER], ids=["sam", "efficient"]
)
def test_shipped_targets_cover_every_prompt(target: str, component: ComponentSpec) -> None:
    options = profiles.load_target(target).options
    found = ranges(component, options)
    most_prompts, most_points = int(options["max_prompts"]), int(options["max_points"])
    assert most_points >= 6  # three clicks, a box, and one to spare: more than the parity set asks
    for prompts in range(1, most_prompts + 1):
        for points in range(1, most_points + 1):
            for spec in component.inputs:
                sizes = {"prompts": prompts, "points": points}
                shape = tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)
                assert covers(found[spec.name], shape), (spec.name, shape)


@pytest.mark.parametrize("shape", [(0, 1, 2), (65, 1, 2), (1, 17, 2), (1, 1, 3), (1, 1)])
def test_not_covered(shape: tuple[int, ...]) -> None:
    assert not covers(ranges(SAM_DECODER, {})["point_coords"], shape)


@pytest.mark.parametrize("target", NVIDIA)
def test_automatic_mask_generation_fits_in_one_call(target: str) -> None:
    pytest.importorskip("numpy")
    from effsam_export.inference.automatic_masks import GridSettings

    options = profiles.load_target(target).options
    assert sizes(options)["prompts"][2] >= GridSettings().points_per_batch


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
def test_every_size_is_an_option(backend: str) -> None:
    assert shape_ranges.DEFAULTS.keys() <= backends.BACKENDS[backend].options.keys()


def test_document() -> None:
    found = document({"flags": Range(minimum=(1,), opt=(2,), maximum=(3,))})
    assert found == {"flags": {"min": [1], "opt": [2], "max": [3]}}


def test_profile_of_the_builder() -> None:
    calls = []

    class Profile:
        def set_shape(self, *arguments: object) -> None:
            calls.append(arguments)

    set_profile(Profile(), {"flags": Range(minimum=(1,), opt=(2,), maximum=(3,))})
    assert calls == [("flags", (1,), (2,), (3,))]
