"""Models, weights and targets that a layout cannot have are refused with a reason."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest

from effsam_export import layouts, models
from effsam_export.config.targets import load_target
from effsam_export.errors import UsageError
from effsam_export.models.image_sizes import resized
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.request import ExportRequest
from effsam_export.spec.targets import LayoutName
from tests.layouts.shallow import SHALLOW_SAM

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("anylabeling", "transformers-js")
"""Layouts for every model like SAM; `test_x_anylabeling.py` has the other one."""
SAM_LIKE = ("mobile-sam", "edge-sam", "repvit-sam", "slim-sam-77", "sam-vit-b", "sam-lightening")


def test_the_table_has_the_names_of_the_targets() -> None:
    names = tuple(layouts.LAYOUTS)
    assert get_args(LayoutName) == names
    assert {load_target(name).layout for name in names} == set(names)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", SAM_LIKE)
def test_models_like_sam(name: str, model: str) -> None:
    laid_out = layouts.in_layout(models.get(model), name)
    assert [c.name for c in laid_out.components] == ["encoder", "decoder"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["efficient-sam-ti", "fast-sam-s"])
def test_models_with_other_prompts(name: str, model: str) -> None:
    with pytest.raises(UsageError, match=f"SAM's prompts and masks, and `{model}` has others"):
        layouts.in_layout(models.get(model), name)


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes(name: str) -> None:
    with pytest.raises(UsageError, match="input of 1024 pixels, and this `mobile-sam`") as caught:
        layouts.in_layout(resized(models.get("mobile-sam"), (512, 768)), name)
    assert "has 512x768" in caught.value.message
    assert caught.value.hint == "give --image-size 1024"
    with pytest.raises(UsageError) as caught:
        layouts.in_layout(resized(models.get("efficientvit-sam-xl0"), 512), name)
    assert caught.value.hint == "give --image-size 1024"
    with pytest.raises(UsageError) as caught:
        layouts.in_layout(models.get("efficientvit-sam-l0"), "transformers-js")
    assert caught.value.hint == "export it for target onnx"


@pytest.mark.backend
def test_it_is_refused_before_anything_else(tmp_path: Path) -> None:
    request = ExportRequest(
        model=models.get("fast-sam-s"),
        target=load_target("anylabeling"),
        output=tmp_path / "bundle",
        components=("nonsense",),
    )
    with pytest.raises(UsageError, match="AnyLabeling takes models with SAM's prompts"):
        resolve(request)


@pytest.mark.backend
@pytest.mark.parametrize("name", NAMES)
def test_weights_with_another_number_of_masks(name: str) -> None:
    from effsam_export.weights.mask_tokens import with_mask_tokens

    state = with_mask_tokens(SHALLOW_SAM, 6).build().state_dict()
    laid_out = layouts.in_layout(SHALLOW_SAM, name)
    assert laid_out.build_like is not None
    with pytest.raises(UsageError, match="4 masks for a prompt, and this checkpoint has 6"):
        laid_out.build_like(state)
    four = laid_out.build_like(SHALLOW_SAM.build().state_dict())
    assert four.state_dict().keys() == SHALLOW_SAM.build().state_dict().keys()


def test_faults_of_a_target_file(tmp_path: Path) -> None:
    text = load_target("anylabeling").source.decode()
    for old, new, fault in (
        ('"anylabeling"', '"anylabelling"', "unknown layout `anylabelling`"),
        ('backend = "onnx"', 'backend = "openvino"', "a target with a `layout` has backend `onnx`"),
        ('"anylabeling"', "3", "`layout` is not of type str"),
    ):
        path = tmp_path / "target.toml"
        path.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(UsageError, match=re.escape(fault)):
            load_target(str(path))
    assert load_target("onnx").layout is None


def test_a_model_without_a_layout_is_unchanged() -> None:
    model = replace(SHALLOW_SAM)
    assert layouts.in_layout(model, None) is model
