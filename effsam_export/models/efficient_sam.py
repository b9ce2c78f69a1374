"""EfficientSAM, tiny and small: a plain ViT in front of a decoder of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.models.sam.components import EMBEDDINGS, IMAGE, encoder_feeds
from effsam_export.spec import (
    ComponentSpec,
    Feeds,
    Licence,
    MaskSet,
    ModelSpec,
    Preprocess,
    PromptSupport,
    Sample,
    TensorSpec,
    UrlSource,
    WeightFile,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from effsam_export.models.efficient_sam_decoder import EfficientSam

SLOTS = 6
# The authors' mean and deviation on their scale of 0 to 1, times 255 (`efficient_sam.py`).
PREPROCESS = Preprocess(
    family="squash",
    image_size=1024,
    prompt_size=1024,
    pixel_mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
    pixel_std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
)
PROMPTS = PromptSupport(negative_points=False, mask=False, max_points=SLOTS)
# The authors compare with >= 0, which differs from > 0 where a logit is exactly zero only.
MASKS = MaskSet(single=(), multimask=(0, 1, 2), threshold=0.0, low_res_size=256, upscale="bicubic")
INPUTS = (
    EMBEDDINGS,
    TensorSpec(
        name="point_coords",
        shape=("prompts", SLOTS, 2),
        description="(x, y) in the squashed image; unused slots are (-1, -1)",
    ),
    TensorSpec(
        name="point_labels",
        shape=("prompts", SLOTS),
        description="1 foreground, 2 box top-left, 3 box bottom-right, -1 unused",
    ),
)
OUTPUTS = (
    TensorSpec(name="low_res_masks", shape=("prompts", 3, 256, 256), description="logits"),
    TensorSpec(name="iou_predictions", shape=("prompts", 3), description="predicted mask quality"),
)


def points_of(sample: Sample) -> tuple[list[tuple[float, float]], list[int]]:
    """Points and box corners of a prompt, and their labels."""
    prompt = sample.prompt
    assert prompt is not None
    coords = [(p.x, p.y) for p in prompt.points]
    labels = [p.label for p in prompt.points]
    if prompt.box is not None:
        coords += [prompt.box[:2], prompt.box[2:]]
        labels += [2, 3]
    return coords, labels


def decoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """The decoder's inputs for a sample: points, box corners, and unused slots up to six."""
    import numpy as np

    del preprocess
    assert sample.embeddings is not None
    coords, labels = points_of(sample)
    point_coords = np.full((1, SLOTS, 2), -1, dtype=np.float32)
    point_labels = np.full((1, SLOTS), -1, dtype=np.float32)
    point_coords[0, : len(coords)] = coords
    point_labels[0, : len(labels)] = labels
    return {
        "image_embeddings": sample.embeddings,
        "point_coords": point_coords,
        "point_labels": point_labels,
    }


def encoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """The authors' path from the photograph to the embedding."""
    import torch

    image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        return {"image_embeddings": as_efficient_sam(module).encode(image).numpy()}


def decoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """The authors' path from an embedding and a prompt to the three masks and their scores."""
    import torch

    coords, labels = points_of(sample)
    with torch.inference_mode():
        low_res, iou = as_efficient_sam(module).decode(
            torch.as_tensor(sample.embeddings),
            torch.tensor([coords], dtype=torch.float32),
            torch.tensor([labels], dtype=torch.float32),
        )
    return {"low_res_masks": low_res[:, 1:].numpy(), "iou_predictions": iou[:, 1:].numpy()}


def as_efficient_sam(module: nn.Module) -> EfficientSam:
    """The module, known to be an `EfficientSam`."""
    from effsam_export.models.efficient_sam_decoder import EfficientSam

    assert isinstance(module, EfficientSam)
    return module


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Export form of the encoder: normalisation inside, positions baked."""
    from effsam_export.models.sam.export import ExportEncoder

    return ExportEncoder(as_efficient_sam(module))


def wrap_decoder(module: nn.Module) -> nn.Module:
    """Export form of the prompt encoder and mask decoder as one graph."""
    from effsam_export.models.efficient_sam_decoder import ExportDecoder

    return ExportDecoder(as_efficient_sam(module))


def encoder_example() -> Mapping[str, Any]:
    """Tracing input of the encoder."""
    import torch

    return {"image": torch.zeros(1, 3, 1024, 1024)}


def decoder_example() -> Mapping[str, Any]:
    """Tracing inputs of the decoder: two prompts, so that no size is mistaken for 1."""
    import torch

    return {
        "image_embeddings": torch.zeros(1, 256, 64, 64),
        "point_coords": torch.zeros(2, SLOTS, 2),
        "point_labels": torch.ones(2, SLOTS),
    }


ENCODER = ComponentSpec(
    name="encoder",
    inputs=(
        TensorSpec(
            name=IMAGE.name,
            shape=IMAGE.shape,
            description="RGB, 0 to 255, squashed to the square without antialiasing",
        ),
    ),
    outputs=(EMBEDDINGS,),
    wrap=wrap_encoder,
    example=encoder_example,
    feeds=encoder_feeds,
    reference=encoder_reference,
)
DECODER = ComponentSpec(
    name="decoder",
    inputs=INPUTS,
    outputs=OUTPUTS,
    wrap=wrap_decoder,
    example=decoder_example,
    feeds=decoder_feeds,
    reference=decoder_reference,
)


def build(dim: int, num_heads: int) -> nn.Module:
    """EfficientSAM with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.efficient_sam_decoder import EfficientSam
    from effsam_export.models.plain_vit import PlainViT

    return EfficientSam(PlainViT(dim, num_heads), PREPROCESS).eval()


def _spec(name: str, title: str, weights: WeightFile, dim: int, num_heads: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        paper="Xiong et al., EfficientSAM, arXiv 2312.00863",
        origin="https://github.com/yformer/EfficientSAM at d525f62",
        licence=Licence(
            spdx="Apache-2.0",
            source="https://github.com/yformer/EfficientSAM/blob/main/LICENSE",
            text_file="Apache-2.0.txt",
        ),
        weights=weights,
        state="architecture verified",
        preprocess=PREPROCESS,
        prompts=PROMPTS,
        masks=MASKS,
        components=(ENCODER, DECODER),
        build=partial(build, dim, num_heads),
    )


HOST = "https://github.com/yformer/EfficientSAM/raw/main/weights"
EFFICIENT_SAM_TI = _spec(
    "efficient-sam-ti",
    "EfficientSAM-Ti (plain ViT-Tiny encoder)",
    WeightFile(
        file_name="efficient_sam_vitt.pt",
        sha256="dff858b19600a46461cbb7de98f796b23a7a888d9f5e34c0b033f7d6eb9e4e6a",
        size=40_982_470,
        sources=(UrlSource(url=f"{HOST}/efficient_sam_vitt.pt"),),
    ),
    192,
    3,
)
EFFICIENT_SAM_S = _spec(
    "efficient-sam-s",
    "EfficientSAM-S (plain ViT-Small encoder)",
    # The authors publish a zip of the weights and no hash of it.
    WeightFile(
        file_name="efficient_sam_vits.pt.zip",
        sha256=None,
        size=None,
        sources=(UrlSource(url=f"{HOST}/efficient_sam_vits.pt.zip"),),
    ),
    384,
    6,
)
