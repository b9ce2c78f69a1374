"""The export forms of SAM's ViT, of a pruned and of a clustered one, on encoders of a few blocks.

The encoders of official size are in `test_sam_family.py` and `test_relatives.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.models.expedit import Clustering, ExpeditEncoder
from effsam_export.models.expedit_sam import ENCODER as EXPEDIT_ENCODER
from effsam_export.models.sam.components import SAM_PREPROCESS
from effsam_export.models.sam.module import Sam
from effsam_export.models.sam_vit import VIT_ENCODER
from effsam_export.models.vit import ImageEncoderViT
from effsam_export.weights.checkpoint import settle_vector_maths
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, compare

pytestmark = pytest.mark.backend

RULE = Clustering(location=2, clusters=81, iterations=5, temperature=0.02, window=5, k=20)


def encoder_of(kind: str) -> ImageEncoderViT:
    """Return an encoder of 4 blocks, of which 2 attend over the whole map, with weights by name."""
    settle_vector_maths()
    if kind == "clustered":
        encoder: ImageEncoderViT = ExpeditEncoder(
            RULE, dim=48, depth=4, num_heads=2, global_blocks=(1, 3)
        )
    else:
        widths = ([48, 24, 24, 32], [96, 64, 48, 96]) if kind == "pruned" else (None, None)
        encoder = ImageEncoderViT(
            dim=48,
            depth=4,
            num_heads=2,
            global_blocks=(1, 3),
            attn_dims=widths[0],
            mlp_dims=widths[1],
            image_size=512,
        )
    state = encoder.state_dict()
    filled = {n: torch.from_numpy(golden_weights.fill(n, v.shape)) for n, v in state.items()}
    encoder.load_state_dict(filled)
    return encoder.eval()


@pytest.mark.parametrize("kind", ["plain", "pruned", "clustered"])
def test_export_form_gives_the_same_embedding(kind: str) -> None:
    encoder = encoder_of(kind)
    component = EXPEDIT_ENCODER if kind == "clustered" else VIT_ENCODER
    form = component.wrap(Sam(encoder, SAM_PREPROCESS)).get_submodule("image_encoder")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in form.modules())
    side = 16 * encoder.pos_embed.shape[1]
    noise = golden_weights.generator(7).standard_normal((1, 3, side, side)).astype(np.float32)
    with torch.inference_mode():
        wanted, found = encoder(torch.from_numpy(noise)), form(torch.from_numpy(noise))
    largest, rms = compare(found.numpy(), wanted.numpy())
    assert largest <= MAX_ERROR, (largest, rms)
    assert rms <= RMS_ERROR, (largest, rms)
