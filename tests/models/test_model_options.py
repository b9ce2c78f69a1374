"""Settings of Expedit-SAM, names of the hub, and what `effsam info` states."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.cli.options import to_model_options
from effsam_export.errors import UsageError
from effsam_export.models.expedit_sam import DEFAULTS
from effsam_export.weights.hub_names import author_name, from_hub
from effsam_export.weights.names import with_fused_qkv

if TYPE_CHECKING:
    from pathlib import Path

EXPEDIT = models.get("expedit-sam-vit-b")


def test_defaults_are_the_authors_command_line() -> None:
    assert EXPEDIT.options == DEFAULTS
    assert models.configured(EXPEDIT, {}) is EXPEDIT


def test_one_model_option_keeps_the_defaults_of_the_others() -> None:
    found = models.configured(EXPEDIT, {"location": 8, "clusters": 81})
    assert found.options == {**DEFAULTS, "location": 8, "clusters": 81}
    assert found.name == EXPEDIT.name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"location": -1}, "location=-1 is not a block of the encoder: want 0 to 11"),
        ({"location": 12}, "location=12 is not a block"),
        ({"clusters": 90}, "clusters=90 is not a square number"),
        ({"clusters": 196}, "clusters=196 has to be smaller than the 196 tokens"),
        ({"iterations": 0}, "iterations has to be 1 or more"),
        ({"temperature": 0}, "temperature has to be greater than 0"),
        ({"window": 4}, "window has to be odd"),
        ({"k": 101}, "k has to be 1 to 100"),
        ({"location": 6.5}, "`location` has to be a whole number"),
        ({"colour": 1}, "there is no model option `colour`"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        models.configured(EXPEDIT, options)
    assert sentence in caught.value.message
    assert "clusters=100" in str(caught.value.hint)


def test_all_problems_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        models.configured(EXPEDIT, {"location": 99, "clusters": 7, "k": 5, "size": 1})
    assert caught.value.message.count(";") == 2


def test_the_depth_limits_the_location() -> None:
    large = models.get("expedit-sam-vit-h")
    assert models.configured(large, {"location": 18, "clusters": 121}).options["location"] == 18


def test_a_model_without_settings_refuses_them() -> None:
    with pytest.raises(UsageError, match="has no model options"):
        models.configured(models.get("mobile-sam"), {"location": 6})


@pytest.mark.parametrize("text", ["location", "=3", "location=far", "location=nan", "location="])
def test_malformed_settings(text: str) -> None:
    with pytest.raises(UsageError, match="is not NAME=NUMBER"):
        to_model_options([text])


def test_settings_are_parsed() -> None:
    assert to_model_options(["location=8", "temperature=0.01"]) == {
        "location": 8,
        "temperature": 0.01,
    }
    with pytest.raises(UsageError, match="given twice"):
        to_model_options(["k=1", "k=2"])


# ------------------------------------------------------------------ names


@pytest.mark.shared
@pytest.mark.parametrize("variant", ["slimsam_50_uniform", "slimsam_77_uniform"])
def test_every_name_of_the_hub(shared: Path, variant: str) -> None:
    text = (shared / "golden" / variant / "hf_names.json").read_text("utf-8")
    names = json.loads(text)["upstream_to_hf"]
    assert {theirs: author_name(theirs) for theirs in names.values()} == {
        theirs: ours for ours, theirs in names.items()
    }


@pytest.mark.backend
def test_the_matrix_may_be_there_twice() -> None:
    torch = pytest.importorskip("torch")
    twins = ("shared_image_embedding", "prompt_encoder.shared_embedding")
    state = {f"{t}.positional_embedding": torch.ones(2) for t in twins}
    state["vision_encoder.pos_embed"] = torch.zeros(1)
    assert sorted(from_hub(state)) == [
        "image_encoder.pos_embed",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ]


@pytest.mark.backend
def test_separate_queries_keys_and_values_are_fused_in_order() -> None:
    torch = pytest.importorskip("torch")
    state = {f"b.attn.{x}.bias": torch.full((2,), float(i)) for i, x in enumerate("kqv")}
    fused = with_fused_qkv(state)
    assert list(fused) == ["b.attn.qkv.bias"]
    assert fused["b.attn.qkv.bias"].tolist() == [1, 1, 0, 0, 2, 2]


@pytest.mark.backend
def test_parts_of_different_widths_are_left() -> None:
    torch = pytest.importorskip("torch")
    state = {f"b.attn.{x}.bias": torch.zeros(i + 1) for i, x in enumerate("qkv")}
    assert with_fused_qkv(state) == state
