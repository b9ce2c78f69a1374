"""SAM's encoder and decoder components: inputs, outputs and references, shared by its relatives.

Importing this module does not import torch. A bundle's manifest states the same contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.models.fixed import empty_slots
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.prompts import MaskSet, Preprocess, PromptSupport
from effsam_export.spec.sizes import divided, sides, text_of
from effsam_export.spec.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.prompts import Sample
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import Feeds, Float32

# Source: segment-anything, `build_sam.py`.
SAM_PREPROCESS = Preprocess(
    family="longest-side-pad",
    image_size=1024,
    prompt_size=1024,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
)
SAM_PROMPTS = PromptSupport()
GRID_STRIDE, MASK_STRIDE = 16, 4
"""Pixels of the prompts' frame for a cell of the embedding, and for a pixel of the mask logits."""
SAM_MASKS = MaskSet(single=(0,), multimask=(1, 2, 3), threshold=0.0, low_res_size=256)


def image_tensor(preprocess: Preprocess) -> TensorSpec:
    """Return the encoder's input for a preprocessing."""
    size = preprocess.image_size
    fit = f"longest side {size}" if isinstance(size, int) else f"resized to fit {text_of(size)}"
    return TensorSpec(
        name="image",
        shape=(1, 3, *sides(size)),
        description=f"RGB, 0 to 255, {fit}, padded at the bottom and right with pixel_mean",
    )


IMAGE = image_tensor(SAM_PREPROCESS)
EMBEDDINGS = TensorSpec(
    name="image_embeddings", shape=(1, 256, 64, 64), description="what the decoder takes"
)
DECODER_INPUTS = (
    EMBEDDINGS,
    TensorSpec(
        name="point_coords",
        shape=("prompts", "points", 2),
        description="(x, y) in model-frame pixels; box corners are points too",
    ),
    TensorSpec(
        name="point_labels",
        shape=("prompts", "points"),
        description="1 foreground, 0 background, 2 box top-left, 3 box bottom-right, -1 padding",
    ),
    TensorSpec(
        name="mask_input",
        shape=("prompts", 1, 256, 256),
        description="low_res_masks of an earlier answer, or zeros",
    ),
    TensorSpec(
        name="has_mask_input", shape=("prompts",), description="1 if mask_input is to be used, or 0"
    ),
)
DECODER_OUTPUTS = (
    TensorSpec(name="low_res_masks", shape=("prompts", 4, 256, 256), description="logits"),
    TensorSpec(name="iou_predictions", shape=("prompts", 4), description="predicted mask quality"),
)


def low_res_size(preprocess: Preprocess) -> Size:
    """Return the size of the mask logits, a quarter of that of the prompts' frame."""
    return divided(preprocess.prompt_size, MASK_STRIDE)


def encoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the encoder's inputs for a sample."""
    from effsam_export.imaging.images import encoder_image

    return {"image": encoder_image(sample.image, preprocess)}


def decoder_feeds(preprocess: Preprocess, sample: Sample, *, low_res: Size = 256) -> Feeds:
    """Return the decoder's inputs for a sample: points, then the padding point or box corners.

    `low_res` is the size of the mask input.

    A prompt without a box ends with a padding point (0, 0) of label -1. A prompt with a box ends
    with its two corners instead. Source: segment-anything, `modeling/prompt_encoder.py`.
    """
    import numpy as np

    del preprocess
    prompt, embeddings = sample.prompt, sample.embeddings
    assert prompt is not None
    assert embeddings is not None
    coords: list[tuple[float, float]] = [(p.x, p.y) for p in prompt.points]
    labels = [p.label for p in prompt.points]
    if prompt.box is None:
        coords += [(0.0, 0.0)]
        labels += [-1]
    else:
        coords += [prompt.box[:2], prompt.box[2:]]
        labels += [2, 3]
    mask = np.zeros((1, 1, *sides(low_res)), dtype=np.float32)
    if prompt.mask_input is not None:
        mask[0, 0] = prompt.mask_input
    return {
        "image_embeddings": embeddings,
        "point_coords": np.asarray([coords], dtype=np.float32),
        "point_labels": np.asarray([labels], dtype=np.float32),
        "mask_input": mask,
        "has_mask_input": np.asarray([prompt.mask_input is not None], dtype=np.float32),
    }


def encoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return the embedding of an image, computed by the authors' code path."""
    import torch

    from effsam_export.imaging.images import frame_of, resize

    sam = as_sam(module)
    h, w = sample.image.shape[:2]
    resized = resize(sample.image, frame_of((h, w), sam.rule).resized)
    image = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        return {"image_embeddings": sam.encode(image).numpy()}


def decoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return all masks and scores of a prompt, computed by the authors' code path."""
    import torch

    prompt = sample.prompt
    assert prompt is not None
    points = boxes = masks = None
    if prompt.points:
        points = (
            torch.tensor([[(p.x, p.y) for p in prompt.points]], dtype=torch.float32),
            torch.tensor([[p.label for p in prompt.points]]),
        )
    if prompt.box is not None:
        boxes = torch.tensor([prompt.box], dtype=torch.float32)
    if prompt.mask_input is not None:
        masks = torch.from_numpy(prompt.mask_input)[None, None]
    with torch.inference_mode():
        low_res, iou = as_sam(module).decode(
            torch.as_tensor(sample.embeddings), points, boxes, masks
        )
    return {"low_res_masks": low_res.numpy(), "iou_predictions": iou.numpy()}


def as_sam(module: nn.Module) -> Sam:
    """Return the module typed as `Sam`."""
    from effsam_export.models.sam.module import Sam

    assert isinstance(module, Sam)
    return module


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export: normalisation inside, batch norms folded."""
    from effsam_export.models.sam.export import ExportEncoder

    return ExportEncoder(as_sam(module))


def wrap_decoder(module: nn.Module) -> nn.Module:
    """Return the prompt encoder and mask decoder as one module for export."""
    from effsam_export.models.sam.export import ExportDecoder

    return ExportDecoder(as_sam(module))


def encoder_example(preprocess: Preprocess = SAM_PREPROCESS) -> Mapping[str, Any]:
    """Return the tracing input of the encoder."""
    import torch

    return {"image": torch.zeros(1, 3, *sides(preprocess.image_size))}


def decoder_example(preprocess: Preprocess = SAM_PREPROCESS) -> Mapping[str, Any]:
    """Return tracing inputs of the decoder: two prompts of three points, as size 1 is special."""
    import torch

    grid = sides(divided(preprocess.prompt_size, GRID_STRIDE))
    return {
        "image_embeddings": torch.zeros(1, 256, *grid),
        "point_coords": torch.zeros(2, 3, 2),
        "point_labels": torch.ones(2, 3),
        "mask_input": torch.zeros(2, 1, *sides(low_res_size(preprocess))),
        "has_mask_input": torch.zeros(2),
    }


SAM_ENCODER = ComponentSpec(
    name="encoder",
    inputs=(IMAGE,),
    outputs=(EMBEDDINGS,),
    wrap=wrap_encoder,
    example=encoder_example,
    feeds=encoder_feeds,
    reference=encoder_reference,
)
SAM_DECODER = ComponentSpec(
    name="decoder",
    inputs=DECODER_INPUTS,
    outputs=DECODER_OUTPUTS,
    wrap=wrap_decoder,
    example=decoder_example,
    feeds=decoder_feeds,
    reference=decoder_reference,
    fixed=empty_slots,
)


def stack_decoder_feeds(feeds: list[Feeds]) -> Feeds:
    """Return one decoder input for several prompts with the same number of points."""
    import numpy as np

    names = [t.name for t in DECODER_INPUTS if t.name != "image_embeddings"]
    stacked: dict[str, Float32] = {n: np.concatenate([f[n] for f in feeds]) for n in names}
    return {"image_embeddings": feeds[0]["image_embeddings"], **stacked}
