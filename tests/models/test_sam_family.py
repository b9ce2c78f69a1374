"""SAM, EdgeSAM and RepViT-SAM against the authors' own code, on weights made from names.

MobileSAM has a file of its own, and the decoders of all four share their names and so their
figures. Tolerances are those of `golden_weights`: the authors' FP32 noise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import frame_of, upscale_masks
from effsam_export.models.sam.components import SAM_MASKS, SAM_PREPROCESS, as_sam
from effsam_export.spec.prompts import Sample
from effsam_export.weights.checkpoint import settle_vector_maths
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, compare, sample

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike

    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.tensors import Feeds
    from tests.golden_weights import Floats, Golden

pytestmark = pytest.mark.backend

MODELS = {"vit_b": "sam-vit-b", "edge_sam": "edge-sam", "repvit": "repvit-sam"}
MODES = {"m1": slice(0, 1), "m3": slice(1, None), "m4": slice(0, None)}
every = pytest.mark.parametrize("variant", MODELS, scope="module")
WITH_SLOW = (pytest.param("vit_b", marks=pytest.mark.slow), "edge_sam", "repvit")
"""The same models. ViT-B is slow; `test_vit.py` tests a smaller export form."""


def loaded(variant: str, golden: Golden) -> Sam:
    settle_vector_maths()
    name = {**MODELS, "vit_h": "sam-vit-h"}[variant]
    return as_sam(golden_weights.load_weights(models.get(name).build(), golden))


@pytest.fixture(scope="module")
def sam(variant: str) -> Sam:
    """The model with the deterministic weights, loaded strictly."""
    return loaded(variant, golden_weights.load(variant))


@pytest.fixture(scope="module")
def noise_embedding(sam: Sam) -> Floats:
    with torch.inference_mode():
        out = sam.image_encoder(torch.from_numpy(golden_weights.noise_image()))
    return np.asarray(out.numpy())


def assert_near(found: ArrayLike, reference: ArrayLike) -> None:
    largest, rms = compare(found, reference)
    assert largest <= MAX_ERROR, (largest, rms)
    assert rms <= RMS_ERROR, (largest, rms)


def answers(variant: str, sam: Sam, golden: Golden, embedding: Floats) -> dict[str, Feeds]:
    """All masks and scores by prompt; `e` feeds back the first of the three masks of `a`."""
    spec = models.get({**MODELS, "vit_h": "sam-vit-h"}[variant]).component("decoder")
    found: dict[str, Feeds] = {}
    image = np.zeros((1200, 1800, 3), dtype=np.uint8)
    for name in golden.manifest["prompts"]:
        prompt = golden.prompt(name)
        if name == "e":
            prompt = replace(prompt, mask_input=found["a"]["low_res_masks"][0, 1])
        given = Sample(image=image, embeddings=embedding, prompt=prompt)
        found[name] = spec.reference(sam, given)
    return found


def assert_decoded(golden: Golden, key: str, found: dict[str, Feeds]) -> int:
    """Masks, scores and stability of every prompt and mode that the figures have."""
    compared = 0
    for name, outputs in found.items():
        for mode, chosen in MODES.items():
            at = f"{key}/{name}/{mode}"
            if f"{at}/low_res/sample" not in golden.figures:
                continue
            low_res = outputs["low_res_masks"][0, chosen]
            assert_near(sample(low_res), golden.figures[f"{at}/low_res/sample"])
            assert_near(outputs["iou_predictions"][0, chosen], golden.figures[f"{at}/iou"])
            if "stability_scores" in outputs:
                wanted = golden.figures[f"{at}/stability"]
                # Counts of pixels: one that crosses a threshold is a 65536th of the square.
                np.testing.assert_allclose(
                    outputs["stability_scores"][0, chosen], wanted, atol=2e-4
                )
            compared += 1
    return compared


# ------------------------------------------------------------------ without the shared folder


@every
def test_names_shapes_and_number(variant: str, sam: Sam) -> None:
    manifest = golden_weights.load(variant).manifest
    found = {n: (list(v.shape), str(v.dtype)[6:]) for n, v in sam.state_dict().items()}
    assert found == {e[0]: (e[1], e[2]) for e in manifest["entries"]}
    assert sum(p.numel() for p in sam.parameters()) == manifest["n_params"]


@pytest.mark.parametrize("variant", WITH_SLOW, scope="module")
def test_embedding_of_noise(variant: str, noise_embedding: Floats) -> None:
    figures = golden_weights.load(variant).figures
    assert_near(sample(noise_embedding), figures["enc/noise/sample"])


@pytest.mark.parametrize("variant", WITH_SLOW, scope="module")
def test_export_form_gives_the_same_embedding(
    variant: str, sam: Sam, noise_embedding: Floats
) -> None:
    encoder = models.get(MODELS[variant]).component("encoder")
    form = encoder.wrap(sam).get_submodule("image_encoder")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in form.modules())
    with torch.inference_mode():
        found = form(torch.from_numpy(golden_weights.noise_image())).numpy()
    assert_near(found, noise_embedding)


@pytest.mark.parametrize("variant", ["edge_sam"], scope="module")
def test_edge_sam_decoder_with_stability(variant: str, sam: Sam) -> None:
    golden = golden_weights.load(variant)
    found = answers(variant, sam, golden, golden_weights.synthetic_embedding())
    assert assert_decoded(golden, "dec/synth", found) == len(golden.manifest["prompts"])


# ------------------------------------------------------------------ with it


def check_in_full(variant: str, sam: Sam, shared: Path) -> None:
    """Photograph, decoder on both embeddings, and the masks at original size."""
    golden = golden_weights.load(variant, shared / "golden")
    image = load_image(shared / "images" / "truck.jpg")
    spec = models.get({**MODELS, "vit_h": "sam-vit-h"}[variant])
    outputs = spec.component("encoder").reference(sam, Sample(image=image))
    embedding = outputs["image_embeddings"]
    assert_near(sample(embedding), golden.figures["enc/photo/sample"])
    synthetic = golden_weights.synthetic_embedding()
    modes = 3 if variant == "edge_sam" else 2
    for key, given in (("dec/photo", embedding), ("dec/synth", synthetic)):
        found = answers(variant, sam, golden, given)
        assert assert_decoded(golden, key, found) >= (modes - 1) * len(found)
        if key == "dec/photo":
            assert_final(golden, found)


def assert_final(golden: Golden, found: dict[str, Feeds]) -> None:
    frame = frame_of((1200, 1800), SAM_PREPROCESS)
    for name in ("a", "c"):
        low_res = np.ascontiguousarray(found[name]["low_res_masks"][0, :1])
        logits = upscale_masks(low_res, frame, SAM_MASKS)
        key = f"final/photo/{name}/m1"
        assert_near(sample(logits), golden.figures[f"{key}/logits/sample"])
        bits = np.unpackbits(golden.figures[f"{key}/bits"], count=logits.size).astype(bool)
        flipped = int(((logits > 0).reshape(-1) != bits).sum())
        assert flipped <= golden.figures[f"{key}/near_zero"][0]


@pytest.mark.shared
@pytest.mark.parametrize("variant", WITH_SLOW, scope="module")
def test_image_and_decoder(variant: str, sam: Sam, shared: Path) -> None:
    check_in_full(variant, sam, shared)


@pytest.mark.shared
@pytest.mark.slow
def test_vit_h(shared: Path) -> None:
    golden = golden_weights.load("vit_h", shared / "golden")
    sam = loaded("vit_h", golden)
    with torch.inference_mode():
        out = sam.image_encoder(torch.from_numpy(golden_weights.noise_image()))
    assert_near(sample(out.numpy()), golden.figures["enc/noise/sample"])
    check_in_full("vit_h", sam, shared)


def test_an_empty_mask_has_no_stability() -> None:
    from effsam_export.models.sam.export import WithStability

    class Below(torch.nn.Module):
        def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.full((1, 4, 8, 8), -5.0), torch.zeros(1, 4)

    none = torch.zeros(1)
    scores = WithStability(Below(), 1.0)(none, none, none, none, none)[2]  # type: ignore[arg-type]
    assert scores.tolist() == [[0, 0, 0, 0]]
