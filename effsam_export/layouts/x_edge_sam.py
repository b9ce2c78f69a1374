"""X-AnyLabeling's type `edge_sam`: an encoder of unpadded pixels, a decoder with three inputs.

The app resizes the image to a longest side of 1024 pixels and feeds its bytes. Of the decoder's
masks it shows the most stable one; it computes the stability itself. It adds no padding point, so
the graph does, as the authors' predictor.
Source: X-AnyLabeling 87da3399, `services/auto_labeling/__base__/sam.py`, `EdgeSAMONNX`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.models.sam.components import EMBEDDINGS, as_sam
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.tensors import Feeds, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Preprocess, Sample

SCORE = "scores"
ALL_MASKS = (0, 1, 2, 3)

IMAGE = TensorSpec(
    name="image",
    shape=(1, 3, "height", "width"),
    dtype="uint8",
    description="RGB, 0 to 255, longest side 1024, not padded",
)
DECODER_INPUTS = (
    EMBEDDINGS,
    TensorSpec(
        name="point_coords",
        shape=(1, "points", 2),
        description="(x, y) in pixels of the resized image; box corners are points too",
    ),
    TensorSpec(
        name="point_labels",
        shape=(1, "points"),
        description="1 foreground, 0 background, 2 box top-left, 3 box bottom-right",
    ),
)
DECODER_OUTPUTS = (
    TensorSpec(
        name=SCORE,
        shape=(1, 4),
        description="IoU of the mask at logits > 1 with the mask at logits > -1; ranks the masks",
    ),
    TensorSpec(name="masks", shape=(1, 4, 256, 256), description="logits"),
)


def applied(model: ModelSpec) -> ModelSpec:
    """Return EdgeSAM with the app's components, preprocessing and masks."""
    encoder, decoder = model.component("encoder"), model.component("decoder")
    return replace(
        model,
        preprocess=replace(model.preprocess, family="longest-side-linear"),
        # The app does not feed a mask back.
        prompts=replace(model.prompts, mask=False),
        masks=replace(model.masks, single=(), multimask=ALL_MASKS, score=SCORE, read=read),
        components=(
            ComponentSpec(
                name="encoder",
                inputs=(IMAGE,),
                outputs=(EMBEDDINGS,),
                wrap=partial(_wrap_encoder, encoder.wrap),
                example=encoder_example,
                feeds=encoder_feeds,
                reference=encoder_reference,
            ),
            ComponentSpec(
                name="decoder",
                inputs=DECODER_INPUTS,
                outputs=DECODER_OUTPUTS,
                wrap=partial(_wrap_decoder, decoder.wrap),
                example=decoder_example,
                feeds=decoder_feeds,
                reference=partial(decoder_reference, decoder.reference, model.masks.score),
            ),
        ),
    )


def read(outputs: Feeds) -> Feeds:
    """Return all masks and their scores, as SAM names them."""
    return {"low_res_masks": outputs["masks"], SCORE: outputs[SCORE]}


def encoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the encoder's input: `image` uint8 1x3xhxw, of which the longest side is 1024."""
    import numpy as np

    from effsam_export.imaging.images import encoder_image

    return {IMAGE.name: encoder_image(sample.image, preprocess).astype(np.uint8)}


def encoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return the embedding of the app's image, computed by the authors' code path."""
    import torch

    from effsam_export.imaging.images import frame_of
    from effsam_export.imaging.letterbox import resize_linear

    sam = as_sam(module)
    size = (sample.image.shape[0], sample.image.shape[1])
    resized = resize_linear(sample.image, frame_of(size, sam.rule).resized)
    image = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        return {EMBEDDINGS.name: sam.encode(image).numpy()}


def decoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the decoder's inputs: points, then the corners of a box."""
    import numpy as np

    del preprocess
    prompt = sample.prompt
    assert prompt is not None
    assert sample.embeddings is not None
    coords: list[tuple[float, float]] = [(p.x, p.y) for p in prompt.points]
    labels = [p.label for p in prompt.points]
    if prompt.box is not None:
        coords += [prompt.box[:2], prompt.box[2:]]
        labels += [2, 3]
    return {
        EMBEDDINGS.name: sample.embeddings,
        "point_coords": np.asarray([coords], dtype=np.float32),
        "point_labels": np.asarray([labels], dtype=np.float32),
    }


def decoder_reference(
    reference: Callable[[nn.Module, Sample], Feeds], score: str, module: nn.Module, sample: Sample
) -> Feeds:
    """Return all masks of a prompt and their stability, computed by the authors' code path."""
    outputs = reference(module, sample)
    return {SCORE: outputs[score], "masks": outputs["low_res_masks"]}


def _wrap_encoder(wrap: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    from effsam_export.layouts.x_anylabeling_export import UnpaddedEncoder

    return UnpaddedEncoder(wrap(module))


def _wrap_decoder(wrap: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    from effsam_export.layouts.x_anylabeling_export import PointsDecoder

    return PointsDecoder(wrap(module))


def encoder_example() -> Mapping[str, Any]:
    """Return the tracing input of the encoder."""
    import torch

    return {IMAGE.name: torch.zeros(1, 3, 600, 800, dtype=torch.uint8)}


def decoder_example() -> Mapping[str, Any]:
    """Return tracing inputs of the decoder: three points."""
    import torch

    return {
        EMBEDDINGS.name: torch.zeros(1, 256, 64, 64),
        "point_coords": torch.zeros(1, 3, 2),
        "point_labels": torch.ones(1, 3),
    }
