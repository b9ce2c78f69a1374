"""Transformers.js itself, in node, shows the masks of our predictor.

`compare_apps.py` asks it, and rembg, for those of the official MobileSAM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import effsam_export
from effsam_export.parity.metrics import mask_iou
from tests.layouts import real_apps

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.layouts.marks import LayoutBundle


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformers-js")
    fault = real_apps.install_transformers_js(folder)
    if fault is not None:
        pytest.skip(fault)
    return folder


@pytest.mark.compiler
@pytest.mark.backend
def test_the_library_in_node(
    layout_bundle: LayoutBundle,
    shallow: None,
    picture: NDArray[np.uint8],
    library: Path,
    tmp_path: Path,
) -> None:
    """At 1024 pixels it resizes nothing, so its masks are ours."""
    bundle = layout_bundle("transformers-js", "fp32")
    image = np.asarray(Image.fromarray(picture).resize((1024, 768)))
    Image.fromarray(image).save(tmp_path / "image.png")
    questions = [
        {"input_points": [[[500, 400]]], "input_labels": [[1]]},
        {"input_points": [[[200, 100], [700, 600]]], "input_labels": [[2, 3]]},
    ]
    answers = real_apps.transformers_js(library, bundle, tmp_path / "image.png", questions)
    with effsam_export.load(bundle) as predictor:
        predictor.set_image(image)
        predictions = (
            predictor.predict(np.asarray([[500, 400]]), np.asarray([1])),
            predictor.predict(box=np.asarray([200, 100, 700, 600])),
        )
    for answer, ours in zip(answers, predictions, strict=True):
        assert answer.masks.shape == (3, 768, 1024)
        assert np.allclose(answer.scores, ours.scores, atol=1e-4)
        assert min(map(mask_iou, answer.masks, ours.masks)) >= 0.999
