"""MobileSAM on the deterministic weights, and what its reference answers to every prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export.models.sam.components import SAM_DECODER, as_sam
from effsam_export.spec.prompts import Sample
from effsam_export.spec.tensors import Feeds
from tests import golden_weights

if TYPE_CHECKING:
    from effsam_export.models.sam.module import Sam
    from tests.golden_weights import Floats, Golden

Answers = dict[str, tuple[Sample, Feeds]]
"""By prompt: what the decoder was asked, and all masks and scores it gave."""


@pytest.fixture(scope="session")
def sam() -> Sam:
    """MobileSAM with the deterministic weights, loaded strictly."""
    from effsam_export.models.mobile_sam import build
    from effsam_export.weights.checkpoint import settle_vector_maths

    settle_vector_maths()

    return as_sam(golden_weights.load_weights(build(), golden_weights.load("vit_t")))


@pytest.fixture(scope="session")
def decoded(sam: Sam) -> Answers:
    """Answers on the synthetic embedding."""
    return decode_all(sam, golden_weights.load("vit_t"), golden_weights.synthetic_embedding())


def decode_all(sam: Sam, golden: Golden, embeddings: Floats) -> Answers:
    """Answer every prompt of a manifest; `e` feeds back the first of the three masks of `a`."""
    image = np.zeros((683, 1024, 3), dtype=np.uint8)
    answers: Answers = {}
    for name in golden.manifest["prompts"]:
        prompt = golden.prompt(name)
        if name == "e":
            prompt = replace(prompt, mask_input=answers["a"][1]["low_res_masks"][0, 1])
        given = Sample(image=image, embeddings=embeddings, prompt=prompt)
        answers[name] = given, SAM_DECODER.reference(sam, given)
    return answers
