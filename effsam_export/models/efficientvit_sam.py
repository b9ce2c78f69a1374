"""EfficientViT-SAM in five sizes. The L models take 512 pixels, with prompts in 1024 pixels."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    SAM_PROMPTS,
    as_sam,
    encoder_example,
    image_tensor,
)
from effsam_export.models.sam.sizes import encoder_at
from effsam_export.spec.model import (
    ImageSizes,
    KeepFp32,
    Licence,
    ModelSpec,
    UrlSource,
    WeightFile,
)

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.spec.prompts import Preprocess

NORM_EPS = 1e-6
"""Epsilon of every norm, also in the decoder (`set_norm_eps` in `sam_model_zoo.py`)."""

LARGE_SIDE = 512
LICENCE = Licence(
    spdx="Apache-2.0",
    source="https://github.com/mit-han-lab/efficientvit/blob/master/LICENSE",
    text_file="Apache-2.0.txt",
)
_DISTILLED = (
    "it holds an EfficientViT-SAM that was distilled but not fine-tuned (the authors' "
    "`distilled_model/`); the final weights have the same name and another hash"
)
DISTILLED_ONLY = dict.fromkeys(
    (
        "3450127f9080533be10bb5133abf508510120814fedc8d2069cb27e0721c9a6f",
        "0c24dbea505ce6d786b503750093b71d9f35b520aa5bd1f967e9dd81e968fd20",
        "f087f8287d5b3791020be8b0346a35dae0849dd191bf165178bf947e0df868cc",
        "f8007c8811dc08288fd4270ecd227fbb50fa37ec73cd07b4fa6bba96f20d03b6",
    ),
    _DISTILLED,
)
PRECISION = (
    KeepFp32(
        component="encoder",
        modules=("image_encoder.backbone.stages.*.context_module.main.attention",),
        reason="it divides sums over all tokens and channels, which can overflow FP16; the authors "
        "always compute it in FP32",
        source="mit-han-lab/efficientvit `models/nn/ops.py` (LiteMLA) and #113: in FP16 the L2 "
        "encoder's mIoU is 0.0 (79.1 in FP32)",
    ),
)
LARGE_PREPROCESS = replace(SAM_PREPROCESS, image_size=LARGE_SIDE)


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export, with the normalisation of the image."""
    from effsam_export.models.efficientvit_export import export_form
    from effsam_export.models.sam.export import ExportEncoder

    return ExportEncoder(as_sam(module), export_form)


ENCODER = replace(SAM_ENCODER, wrap=wrap_encoder)

LARGE_ENCODER = replace(
    ENCODER,
    inputs=(image_tensor(LARGE_PREPROCESS),),
    example=partial(encoder_example, LARGE_PREPROCESS),
)


def own_preprocess(size: str) -> Preprocess:
    """Return the preprocessing that the authors' weights of one size were trained for."""
    return SAM_PREPROCESS if size.startswith("x") else LARGE_PREPROCESS


def build(size: str, preprocess: Preprocess | None = None) -> nn.Module:
    """Return one size with the authors' state-dict names, weights not loaded."""
    from torch import nn

    from effsam_export.models import efficientvit as e
    from effsam_export.models.sam.module import Sam

    sizes = {
        # Depths of the stages and of the neck. Source: `backbone.py` and `sam.py`.
        "l0": partial(e.large, (1, 1, 1, 4, 4), 4),
        "l1": partial(e.large, (1, 1, 1, 6, 6), 8),
        "l2": partial(e.large, (1, 2, 2, 8, 8), 12),
        "xl0": partial(e.extra_large, (0, 1, 1, 2, 3, 3), 6),
        "xl1": partial(e.extra_large, (1, 2, 2, 4, 6, 6), 12),
    }
    sam = Sam(e.EfficientViTEncoder(sizes[size]()), preprocess or own_preprocess(size))
    for module in sam.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.eps = NORM_EPS
    return sam.eval()


def _spec(size: str, sha256: str) -> ModelSpec:
    large = not size.startswith("x")
    file_name = f"efficientvit_sam_{size}.pt"
    return ModelSpec(
        name=f"efficientvit-sam-{size}",
        title=f"EfficientViT-SAM {size.upper()}",
        paper="Zhang et al., EfficientViT-SAM, arXiv 2402.05008",
        origin="https://github.com/mit-han-lab/efficientvit at de7d773",
        licence=LICENCE,
        weights=WeightFile(
            file_name=file_name,
            sha256=sha256,
            size=None,
            sources=(
                UrlSource(
                    url="https://huggingface.co/mit-han-lab/efficientvit-sam/resolve/main/"
                    f"{file_name}"
                ),
            ),
        ),
        state="architecture verified",
        preprocess=own_preprocess(size),
        prompts=SAM_PROMPTS,
        masks=SAM_MASKS,
        components=(LARGE_ENCODER if large else ENCODER, SAM_DECODER),
        build=partial(build, size),
        sizes=ImageSizes(
            own=own_preprocess(size).image_size,
            # Pixels for a cell of the deepest map.
            multiple=32 if large else 64,
            # The neck resizes the map of any input to a square.
            rectangles=False,
            at=partial(encoder_at, partial(build, size)),
        ),
        refused=DISTILLED_ONLY,
        precision=PRECISION,
    )


EFFICIENTVIT_SAM_L0 = _spec(
    "l0", "c4f994b01a16d48bcf2fbbb089448cfbf58fae5811edfa8113c953b8b8cc64b8"
)
EFFICIENTVIT_SAM_L1 = _spec(
    "l1", "fa151df2b9b96896accd505470755cdd293a4c50cdabac95478f3fbd86d9152b"
)
EFFICIENTVIT_SAM_L2 = _spec(
    "l2", "d4bfd842224cbb99de09acc3325e81ac5b7e8725c8fbdab152305e5d934bfe4a"
)
EFFICIENTVIT_SAM_XL0 = _spec(
    "xl0", "9bc2f87bd23d6e6d1f7b5beff910f98835c7c333fac73e695bac0bec685968f8"
)
EFFICIENTVIT_SAM_XL1 = _spec(
    "xl1", "10f42277679427c1183dcff19758e536aa86bcc4304e4b387ff48865784be05c"
)
