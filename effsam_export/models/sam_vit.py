"""SAM with ViT-B, ViT-L and ViT-H encoders."""

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
)
from effsam_export.models.sam.sizes import sam_at
from effsam_export.models.vit_tables import fitted, size_of
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
    from effsam_export.spec.sizes import Size

SAM_LICENCE = Licence(
    spdx="Apache-2.0",
    source="https://github.com/facebookresearch/segment-anything/blob/main/LICENSE",
    text_file="Apache-2.0.txt",
)
VIT_NORMS = KeepFp32(
    component="encoder",
    modules=("image_encoder.blocks.*",),
    ops=("layer_norm",),
    reason="the tokens of the later blocks are large and a norm squares them: masks are bad in "
    "FP16 and good with the norms in FP32",
    source="facebookresearch/segment-anything#696",
)
VIT_SIZES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    # Width of tokens, blocks, heads, global blocks. Source: segment-anything, `build_sam.py`.
    "b": (768, 12, 12, (2, 5, 8, 11)),
    "l": (1024, 24, 16, (5, 11, 17, 23)),
    "h": (1280, 32, 16, (7, 15, 23, 31)),
}
HOST = "https://dl.fbaipublicfiles.com/segment_anything"
# Hashes published by the authors; their first eight digits are in the file names.
VIT_B_WEIGHTS = WeightFile(
    file_name="sam_vit_b_01ec64.pth",
    sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    size=375_042_383,
    sources=(UrlSource(url=f"{HOST}/sam_vit_b_01ec64.pth"),),
)
VIT_L_WEIGHTS = WeightFile(
    file_name="sam_vit_l_0b3195.pth",
    sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    size=1_249_524_607,
    sources=(UrlSource(url=f"{HOST}/sam_vit_l_0b3195.pth"),),
)
VIT_H_WEIGHTS = WeightFile(
    file_name="sam_vit_h_4b8939.pth",
    sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    size=2_564_550_879,
    sources=(UrlSource(url=f"{HOST}/sam_vit_h_4b8939.pth"),),
)


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export, with the normalisation of the image."""
    from effsam_export.models.sam.export import ExportEncoder
    from effsam_export.models.vit import export_form

    return ExportEncoder(as_sam(module), export_form)


VIT_ENCODER = replace(SAM_ENCODER, wrap=wrap_encoder)


def build(size: str, preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """Return SAM of one size with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.sam.module import Sam
    from effsam_export.models.vit import ImageEncoderViT

    dim, depth, heads, global_blocks = VIT_SIZES[size]
    encoder = ImageEncoderViT(
        dim=dim,
        depth=depth,
        num_heads=heads,
        global_blocks=global_blocks,
        image_size=preprocess.image_size,
    )
    return Sam(encoder, preprocess).eval()


def at_size(size: str, model: ModelSpec, pixels: Size) -> ModelSpec:
    """Return SAM of one size for another size of input; the tables of a checkpoint are resized."""
    return replace(
        sam_at(partial(build, size), model, pixels),
        fit=partial(fitted, VIT_SIZES[size][3], pixels),
    )


def _spec(size: str, weights: WeightFile) -> ModelSpec:
    return ModelSpec(
        name=f"sam-vit-{size}",
        title=f"SAM (ViT-{size.upper()} encoder)",
        paper="Kirillov et al., Segment Anything, arXiv 2304.02643",
        origin="https://github.com/facebookresearch/segment-anything at dca509f",
        licence=SAM_LICENCE,
        weights=weights,
        state="architecture verified",
        preprocess=SAM_PREPROCESS,
        prompts=SAM_PROMPTS,
        masks=SAM_MASKS,
        components=(VIT_ENCODER, SAM_DECODER),
        build=partial(build, size),
        sizes=ImageSizes(multiple=16, at=partial(at_size, size), of_state=size_of),
        precision=(VIT_NORMS,),
    )


SAM_VIT_B = _spec("b", VIT_B_WEIGHTS)
SAM_VIT_L = _spec("l", VIT_L_WEIGHTS)
SAM_VIT_H = _spec("h", VIT_H_WEIGHTS)
