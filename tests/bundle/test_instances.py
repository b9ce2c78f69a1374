"""The numbers of a segmenter: optional, complete where they are, and the sentences' own."""

from __future__ import annotations

import re

import pytest

from effsam_export import models
from effsam_export.bundle import contract
from effsam_export.bundle import manifest as m
from effsam_export.bundle.readme import readme_text
from effsam_export.errors import BundleError
from tests.integrate.tools import manifest_for

FAST_SAM = models.get("fast-sam-s")
SENTENCES = [
    "keep boxes with scores > 0.4, by falling score; greedy NMS at IoU 0.9; at most 300",
    "snap box sides within 20 px of the border of the unpadded letterbox to it; a box with IoU > "
    "0.9 with the whole is the whole",
    "logits = mask_coefficients @ prototypes; cut the letterbox padding off",
    "bilinear to the original height and width; zero outside the box",
]
"""As they were before the numbers stood beside them."""


def test_a_manifest_is_valid_with_them_and_without() -> None:
    manifest = manifest_for(FAST_SAM)
    assert "instances" in manifest["masks"]
    m.validate(manifest)
    del manifest["masks"]["instances"]
    m.validate(manifest)


@pytest.mark.parametrize("name", sorted(contract.masks(FAST_SAM)["instances"]))
def test_the_numbers_of_instances_are_complete(name: str) -> None:
    manifest = manifest_for(FAST_SAM)
    del manifest["masks"]["instances"][name]
    with pytest.raises(BundleError, match=name):
        m.validate(manifest)


def test_another_number_is_refused() -> None:
    manifest = manifest_for(FAST_SAM)
    manifest["masks"]["instances"]["other"] = 1
    with pytest.raises(BundleError, match="other"):
        m.validate(manifest)


def test_the_numbers_agree_with_the_rules() -> None:
    masks = contract.masks(FAST_SAM)
    assert masks["resize"] == SENTENCES
    said = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", " ".join(SENTENCES))]
    names = ("confidence", "nms_iou", "max_instances", "border", "whole_iou")
    assert said == [masks["instances"][name] for name in names]


@pytest.mark.parametrize("name", models.names())
def test_only_a_segmenter_has_them(name: str) -> None:
    model = models.get(name)
    assert ("instances" in contract.masks(model)) == model.finds_instances


def test_the_page_of_a_bundle_has_the_rules() -> None:
    """What the numbers alone do not say stands there too."""
    manifest = manifest_for(FAST_SAM)
    page = readme_text(manifest)
    assert "with stride 32" in page
    for rule in manifest["masks"]["instances"]["rules"]:
        assert rule in page
