"""FastSAM-s and FastSAM-x: they segment all instances, and prompts select among them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.spec.model import (
    ComponentSpec,
    ImageSizes,
    Licence,
    ModelSpec,
    UrlSource,
    WeightFile,
)
from effsam_export.spec.prompts import MaskSet, Preprocess, PromptSupport, Sample
from effsam_export.spec.sizes import divided, sides
from effsam_export.spec.tensors import Feeds, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from effsam_export.models.yolov8_seg import YoloV8Seg
    from effsam_export.spec.sizes import Size

PREPROCESS = Preprocess(
    family="letterbox",
    image_size=1024,
    prompt_size=1024,
    pixel_mean=(0.0, 0.0, 0.0),
    pixel_std=(255.0, 255.0, 255.0),
)
PROMPTS = PromptSupport(points_with_box=False, mask=False)
STRIDES = (8, 16, 32)
"""Pixels for a cell of the three maps in which the model detects; as in `models.yolov8_seg`."""
PROTOTYPE_STRIDE = 4


def masks_at(size: Size) -> MaskSet:
    """Return the rules of masks for a size of input."""
    low = divided(size, PROTOTYPE_STRIDE)
    return MaskSet(single=(), multimask=(), threshold=0.0, low_res_size=low, score="scores")


def outputs_at(size: Size) -> tuple[TensorSpec, ...]:
    """Return the graph's outputs for a size of input."""
    height, width = sides(size)
    anchors = sum((height // stride) * (width // stride) for stride in STRIDES)
    return (
        TensorSpec(
            name="boxes",
            shape=(1, anchors, 4),
            description="x0, y0, x1, y1 in pixels of the letterbox",
        ),
        TensorSpec(name="scores", shape=(1, anchors), description="confidence, 0 to 1"),
        TensorSpec(
            name="mask_coefficients",
            shape=(1, anchors, 32),
            description="weights of the prototypes in each mask",
        ),
        TensorSpec(
            name="prototypes",
            shape=(1, 32, *sides(divided(size, PROTOTYPE_STRIDE))),
            description="parts of all masks",
        ),
    )


OUTPUTS = outputs_at(PREPROCESS.image_size)


def feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the graph's input for a sample."""
    from effsam_export.imaging.images import encoder_image

    return {"image": encoder_image(sample.image, preprocess)}


def reference(size: Size, module: nn.Module, sample: Sample) -> Feeds:
    """Return the outputs of the authors' forward pass on the image in a letterbox of a size."""
    import torch

    from effsam_export.imaging.letterbox import letterbox

    boxed, _ = letterbox(sample.image, size, square=True)
    image = torch.from_numpy(boxed).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        found = as_yolo(module)(image)
    return {spec.name: value.numpy() for spec, value in zip(OUTPUTS, found, strict=True)}


def as_yolo(module: nn.Module) -> YoloV8Seg:
    """Return the module typed as `YoloV8Seg`."""
    from effsam_export.models.yolov8_seg import YoloV8Seg

    assert isinstance(module, YoloV8Seg)
    return module


def wrap(size: Size, module: nn.Module) -> nn.Module:
    """Return the model for export: division by 255 inside, constant anchors, folded norms."""
    from effsam_export.models.yolov8_seg import ExportSegmenter

    return ExportSegmenter(as_yolo(module), size)


def example(size: Size) -> Mapping[str, Any]:
    """Return the tracing input."""
    import torch

    return {"image": torch.zeros(1, 3, *sides(size))}


def segmenter_at(size: Size) -> ComponentSpec:
    """Return the model's only component for a size of input."""
    shape = "square" if isinstance(size, int) else "rectangle"
    return ComponentSpec(
        name="segmenter",
        inputs=(
            TensorSpec(
                name="image",
                shape=(1, 3, *sides(size)),
                description=f"RGB, 0 to 255, fitted into the {shape}, centred on grey 114",
            ),
        ),
        outputs=outputs_at(size),
        wrap=partial(wrap, size),
        example=partial(example, size),
        feeds=feeds,
        reference=partial(reference, size),
    )


SEGMENTER = segmenter_at(PREPROCESS.image_size)


def at_size(model: ModelSpec, size: Size) -> ModelSpec:
    """Return FastSAM for another size of input."""
    return replace(
        model,
        preprocess=replace(model.preprocess, image_size=size, prompt_size=size),
        masks=masks_at(size),
        components=(segmenter_at(size),),
    )


def build(scale: str) -> nn.Module:
    """Return FastSAM of one scale with the checkpoint's names, weights not loaded."""
    from effsam_export.models.yolov8_seg import EXTRA_LARGE, SMALL, YoloV8Seg

    return YoloV8Seg(SMALL if scale == "s" else EXTRA_LARGE).eval()


def build_like(scale: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Return FastSAM of one scale with the box bins and classes of a state dict."""
    from effsam_export.models.yolov8_seg import EXTRA_LARGE, SMALL, YoloV8Seg, size_of

    size, found = SMALL if scale == "s" else EXTRA_LARGE, size_of(state)
    if found is None:
        return build(scale)
    return YoloV8Seg(replace(size, reg_max=found.reg_max, classes=found.classes)).eval()


def _spec(scale: str, title: str, weights: WeightFile) -> ModelSpec:
    return ModelSpec(
        name=f"fast-sam-{scale}",
        title=title,
        paper="Zhao et al., Fast Segment Anything, arXiv 2306.12156",
        origin="https://github.com/CASIA-IVA-Lab/FastSAM at b4ed20c",
        licence=Licence(
            spdx="AGPL-3.0-only",
            source="https://github.com/CASIA-IVA-Lab/FastSAM/blob/main/LICENSE",
            text_file="AGPL-3.0.txt",
            notice="The README still says Apache-2.0, and links to the AGPL file.",
            restricted="the repository's LICENSE is the AGPL-3.0, though its README says "
            "Apache-2.0; the AGPL-3.0 also covers files converted from the weights",
        ),
        weights=weights,
        state="architecture verified",
        preprocess=PREPROCESS,
        prompts=PROMPTS,
        masks=masks_at(PREPROCESS.image_size),
        components=(SEGMENTER,),
        build=partial(build, scale),
        build_like=partial(build_like, scale),
        sizes=ImageSizes(multiple=32, at=at_size),
    )


HOST = "https://github.com/ultralytics/assets/releases/download/v8.3.0"
FAST_SAM_S = _spec(
    "s",
    "FastSAM-s (YOLOv8s-seg)",
    # The authors publish a drive link without a hash; this is a mirror.
    WeightFile(
        file_name="FastSAM-s.pt",
        sha256=None,
        size=None,
        sources=(UrlSource(url=f"{HOST}/FastSAM-s.pt"),),
    ),
)
FAST_SAM_X = _spec(
    "x",
    "FastSAM (YOLOv8x-seg)",
    WeightFile(
        file_name="FastSAM-x.pt",
        sha256="c0be4e7ddbe4c15333d15a859c676d053c486d0a746a3be6a7a9790d52a9b6d7",
        size=144_943_063,
        sources=(UrlSource(url=f"{HOST}/FastSAM-x.pt"),),
    ),
)
