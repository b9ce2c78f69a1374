"""What a manifest becomes for the templates, and everything that is refused."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from effsam_export import models
from effsam_export.errors import UsageError
from effsam_export.integrate import rules
from effsam_export.integrate.contract import contract_of
from effsam_export.integrate.fingerprint import fingerprint, plain
from effsam_export.models import fixed
from tests.integrate.tools import CHANGES, KINDS, changed, manifest_for
from tests.tiny import TINY_SAM

PROMPTABLE = [n for n in models.names() if not models.get(n).finds_instances]
LONG = "x" * 300


def refused(manifest: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as error:
        contract_of(manifest)
    assert error.value.hint
    return error.value.message


# ------------------------------------------------------------------ what is read


def test_the_values_of_sam() -> None:
    found = contract_of(manifest_for(TINY_SAM))
    assert (found.family, found.image_size) == (rules.LONGEST_SIDE, 1024)
    assert found.pad_value == (123.675, 116.28, 103.53)
    assert (found.padding, found.padding_point, found.padding_label) == ("closing", (0, 0), -1)
    assert (found.foreground, found.background, found.empty) == (1, 0, None)
    assert (found.single, found.multimask) == ((0,), (1, 2, 3))
    assert (found.upscale, found.threshold, found.low_res_size) == ("frame-bilinear", 0.0, 256)
    assert (found.encoder.file, found.decoder.file) == ("encoder.onnx", "decoder.onnx")
    with pytest.raises(FrozenInstanceError):
        found.image_size = 1  # type: ignore[misc]


def test_the_values_of_the_others() -> None:
    squash = contract_of(manifest_for(KINDS["squash"]))
    assert (squash.pad_value, squash.upscale) == (None, "bicubic")
    slots = contract_of(manifest_for(KINDS["slots"]))
    assert (slots.padding, slots.room, slots.max_points, slots.empty) == ("slots", 6, 5, -2)
    fill = contract_of(manifest_for(KINDS["fill"]))
    assert (fill.padding, fill.room, fill.padding_point) == ("fill", 6, (-1, -1))
    assert (fill.background, fill.takes_mask, fill.single) == (None, False, ())
    own = contract_of(manifest_for(KINDS["own-frame"]))
    assert (own.image_size, own.prompt_size) == (1024, 512)
    rectangle = contract_of(manifest_for(KINDS["rectangle"]))
    sizes = (rectangle.image_size, rectangle.prompt_size, rectangle.low_res_size)
    assert sizes == ((640, 768), (640, 768), (160, 192))


@pytest.mark.parametrize("name", PROMPTABLE)
@pytest.mark.parametrize("slots", [None, 8])
def test_the_contract_of_every_model_is_implemented(name: str, slots: int | None) -> None:
    """The rules here are copies: a sentence that changes there has to be taken over by hand."""
    model = models.get(name)
    if slots is not None:
        model = fixed.with_slots(model, slots)
    found = contract_of(manifest_for(model))
    assert found.image_size == model.preprocess.image_size
    assert found.score == model.masks.score


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("kept", [0, 1])
def test_one_component_alone(kept: int) -> None:
    manifest = manifest_for(TINY_SAM)
    manifest["components"] = [manifest["components"][kept]]
    assert f"holds only {('encoder', 'decoder')[kept]}" in refused(manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("preprocess.family", "letterbox"),
        ("preprocess.orientation", "leave it"),
        ("preprocess.range", [0, 1]),
        ("preprocess.normalisation.inside_graph", False),
        ("preprocess.resize.rounding", "floor"),
        ("preprocess.resize.filter", "nearest"),
        ("preprocess.resize.longest_side", 512),
        ("preprocess.pad", None),
        ("preprocess.pad.sides", ["top", "left"]),
        ("preprocess.pad.value", [0.0, float("nan"), 0.0]),
        ("preprocess.image_size", 10**9),
        ("preprocess.image_size", [1024, 768]),
        ("preprocess.image_size", [1024, 10**9]),
        ("prompts.coordinates.frame", "original image"),
        ("prompts.coordinates.pixel_centre", "add 0.5"),
        ("prompts.order", ["box_top_left", "box_bottom_right", "points"]),
        ("prompts.batch", "never"),
        ("prompts.host_rules", ["ask somebody"]),
        ("prompts.mask_input", "sigmoid of it"),
        ("prompts.supports.mask", False),
        ("prompts.supports.negative_points", False),
        ("prompts.labels.empty", -2),
        ("prompts.padding", None),
        ("prompts.padding.when", "always"),
        ("prompts.padding.label", 0),
        ("prompts.padding.coordinates", [0, float("inf")]),
        ("masks.select", "the first"),
        ("masks.score", "stability_scores"),
        ("masks.rule", "greater or equal"),
        ("masks.resize", ["nearest"]),
        ("masks.threshold", float("nan")),
        ("masks.multimask", []),
        ("masks.multimask", [1, 4]),
        ("masks.single", [0, 1]),
        ("masks.low_res_size", 128),
        ("masks.low_res_size", [256, 192]),
        ("components.0.inputs.0.dtype", "uint8"),
        ("components.0.inputs.0.name", "picture"),
        ("components.0.inputs.0.shape", [1, 1024, 1024, 3]),
        ("components.0.outputs.0.shape", ["batch", 256, 64, 64]),
        ("components.1.inputs.0.shape", [1, 256, 32, 32]),
        ("components.1.inputs.1.shape", ["prompts", 5, 2]),
        ("components.1.inputs.1.name", "points"),
        ("components.1.outputs.0.shape", [2, 4, 256, 256]),
        ("components.1.outputs.1.name", "scores"),
        ("components.1.files", ['decoder.onnx"; import os']),
        ("target.options.provider", 'CPU"); evil("'),
    ],
)
def test_a_rule_that_is_not_implemented(path: str, value: Any) -> None:  # noqa: ANN401
    message = refused(changed(manifest_for(TINY_SAM), path, value))
    assert message.startswith("this contract is not supported: ")


def test_a_prompt_frame_and_a_mask_frame_that_differ() -> None:
    """A size stands in three places, and one of them is not believed against the others."""
    manifest = changed(manifest_for(TINY_SAM), "prompts.coordinates.size", 512)
    message = refused(manifest)
    assert "prompts.coordinates.frame is" in message
    assert "masks.resize is" in message


def test_slots_that_have_no_place_for_the_padding_point() -> None:
    manifest = changed(manifest_for(KINDS["slots"]), "prompts.supports.max_points", 6)
    assert "prompts.supports.max_points is `6`" in refused(manifest)


def test_all_problems_are_reported_at_once_and_shortened() -> None:
    manifest = changed(manifest_for(TINY_SAM), "masks.select", LONG)
    manifest = changed(manifest, "prompts.order", [])
    message = refused(changed(manifest, "preprocess.orientation", "none"))
    for part in (
        "preprocess.orientation is `none`",
        "prompts.order is `[]`",
        "masks.select is `xx",
    ):
        assert part in message
    assert LONG not in message


# ------------------------------------------------------------------ the fingerprint


def test_bytes_of_a_value() -> None:
    value = {"b": [1, 0.5, None], "a": "é", "c": {"t": True, "f": False}}
    assert plain(value) == (
        b"{s1:as2:\xc3\xa9s1:b[d3ff0000000000000d3fe0000000000000n]s1:c{s1:ffs1:tt}}"
    )


def test_numbers_are_what_they_mean_and_not_how_they_are_written() -> None:
    assert plain(1) == plain(1.0)
    assert plain(0) != plain(False)
    assert plain("1") != plain(1)
    assert plain(["a", "b"]) != plain(["ab"])


@pytest.mark.parametrize(("path", "value"), CHANGES)
def test_each_field_of_the_contract_is_in_it(path: str, value: Any) -> None:  # noqa: ANN401
    manifest = manifest_for(TINY_SAM)
    assert fingerprint(changed(manifest, path, value)) != fingerprint(manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tools.numpy", "3"),
        ("checkpoint.sha256", "1" * 64),
        ("components.0.rewrites", ["other"]),
        ("components.0.source", "source/encoder.onnx"),
        ("parity.min_mask_iou", 0.5),
    ],
)
def test_other_weights_of_the_same_contract_have_the_same(path: str, value: Any) -> None:  # noqa: ANN401
    manifest = manifest_for(TINY_SAM)
    assert fingerprint(changed(manifest, path, value)) == fingerprint(manifest)


def test_the_fingerprint_has_not_changed() -> None:
    """Generated code has it inside: another one here needs a reason."""
    found = plain({"x": [0.1, -2, "y"]})
    assert hashlib.sha256(found).hexdigest() == (
        "59c7db6e512753cd216e790822a44b3d4d7020790836b2f2eaa4528cf5667430"
    )
