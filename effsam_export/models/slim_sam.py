"""SlimSAM: SAM's ViT-B with 50 % or 77 % of its parameters pruned."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    SAM_PROMPTS,
)
from effsam_export.models.sam.sizes import sam_at
from effsam_export.models.sam_vit import VIT_ENCODER, VIT_NORMS
from effsam_export.models.vit_tables import fitted, size_of
from effsam_export.spec.model import ImageSizes, Licence, ModelSpec, UrlSource, WeightFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from effsam_export.spec.prompts import Preprocess
    from effsam_export.spec.sizes import Size

NUM_HEADS = 12
GLOBAL_BLOCKS = (2, 5, 8, 11)


def build(dim: int, mlp_dim: int, preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """Return a uniformly pruned SlimSAM with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.sam.module import Sam
    from effsam_export.models.vit import ImageEncoderViT

    encoder = ImageEncoderViT(
        dim=dim,
        depth=12,
        num_heads=NUM_HEADS,
        global_blocks=GLOBAL_BLOCKS,
        mlp_dims=[mlp_dim] * 12,
        image_size=preprocess.image_size,
    )
    return Sam(encoder, preprocess).eval()


def build_like(
    default: tuple[int, int], preprocess: Preprocess, state: Mapping[str, Tensor]
) -> nn.Module:
    """Return a SlimSAM with the widths of a state dict. Global pruning gives each block its own.

    If the state dict is not SlimSAM's, the `default` widths are used; the loader then reports the
    differences.
    """
    from effsam_export.models.sam.module import Sam
    from effsam_export.models.vit import ImageEncoderViT

    depth = 0
    while f"image_encoder.blocks.{depth}.mlp.lin1.weight" in state:
        depth += 1
    blocks = [f"image_encoder.blocks.{i}" for i in range(depth)]
    if not depth or any(f"{b}.attn.qkv.weight" not in state for b in blocks):
        return build(*default, preprocess)
    encoder = ImageEncoderViT(
        dim=state["image_encoder.patch_embed.proj.weight"].shape[0],
        depth=depth,
        num_heads=NUM_HEADS,
        global_blocks=GLOBAL_BLOCKS,
        attn_dims=[state[f"{b}.attn.qkv.weight"].shape[0] // 3 for b in blocks],
        mlp_dims=[state[f"{b}.mlp.lin1.weight"].shape[0] for b in blocks],
        image_size=preprocess.image_size,
    )
    return Sam(encoder, preprocess).eval()


def at_size(widths: tuple[int, int], model: ModelSpec, pixels: Size) -> ModelSpec:
    """Return SlimSAM for another size of input; the tables of a checkpoint are resized."""
    sized = sam_at(partial(build, *widths), model, pixels)
    return replace(
        sized,
        build_like=partial(build_like, widths, sized.preprocess),
        fit=partial(fitted, GLOBAL_BLOCKS, pixels),
    )


def _spec(pruned: int, dim: int, mlp_dim: int, sha256: str) -> ModelSpec:
    return ModelSpec(
        name=f"slim-sam-{pruned}",
        title=f"SlimSAM-{pruned} ({pruned} % of SAM's ViT-B pruned)",
        paper="Chen et al., SlimSAM, arXiv 2312.05284",
        origin="https://github.com/czg1225/SlimSAM at b612c1b",
        licence=Licence(
            spdx="Apache-2.0",
            source="https://github.com/czg1225/SlimSAM/blob/master/LICENSE",
            text_file="Apache-2.0.txt",
        ),
        # The authors' own upload; their .pth files are on a drive, without a hash.
        weights=WeightFile(
            file_name=f"slimsam-uniform-{pruned}.safetensors",
            sha256=sha256,
            size=None,
            sources=(
                UrlSource(
                    url=f"https://huggingface.co/Zigeng/SlimSAM-uniform-{pruned}/resolve/main/"
                    "model.safetensors"
                ),
            ),
        ),
        state="architecture verified",
        preprocess=SAM_PREPROCESS,
        prompts=SAM_PROMPTS,
        masks=SAM_MASKS,
        components=(VIT_ENCODER, SAM_DECODER),
        build=partial(build, dim, mlp_dim),
        build_like=partial(build_like, (dim, mlp_dim), SAM_PREPROCESS),
        sizes=ImageSizes(multiple=16, at=partial(at_size, (dim, mlp_dim)), of_state=size_of),
        precision=(VIT_NORMS,),
    )


SLIM_SAM_50 = _spec(
    50, 384, 1536, "c6146291d993f315ae1951e1209555d6c9dea1404546dc54edbc3f15fb1d8e69"
)
SLIM_SAM_77 = _spec(
    77, 168, 696, "b0ee221e3d33935807a820c157fec81a537b3b9979edc88b148a8dae8bbdd5d2"
)
