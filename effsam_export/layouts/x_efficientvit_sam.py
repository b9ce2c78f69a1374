"""X-AnyLabeling's type `efficientvit_sam`: the encoder takes the image as it is.

The graph resizes and pads it as the authors' predictor. The decoder is the one with six inputs of
the layout `anylabeling`, and is asked for one mask in the size of the image. The app adds no
padding point, so the graph does, as the authors' predictor.
Source: X-AnyLabeling 87da3399, `services/auto_labeling/efficientvit_sam.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.layouts import anylabeling
from effsam_export.models.sam.components import EMBEDDINGS, as_sam
from effsam_export.spec.model import ComponentSpec, KeepFp32
from effsam_export.spec.tensors import Feeds, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Preprocess, Sample
    from effsam_export.spec.sizes import Size

IMAGE = TensorSpec(
    name="input_image",
    shape=("height", "width", 3),
    dtype="uint8",
    description="RGB, 0 to 255, in its own size",
)
RESIZE_IN_FP32 = KeepFp32(
    component="encoder",
    modules=("resize",),
    reason="FP16 has no whole numbers above 2048 but the even ones, and sides of images are larger",
    source="IEEE 754-2019, binary16",
)


def applied(model: ModelSpec) -> ModelSpec:
    """Return EfficientViT-SAM with the app's components, preprocessing and masks."""
    encoder, decoder = model.component("encoder"), model.component("decoder")
    return replace(
        model,
        preprocess=replace(model.preprocess, family="whole"),
        # The app does not feed a mask back.
        prompts=replace(model.prompts, mask=False),
        masks=replace(
            model.masks,
            single=(),
            multimask=(0,),
            score=anylabeling.SCORE,
            upscale="none",
            read=anylabeling.read,
        ),
        components=(
            ComponentSpec(
                name="encoder",
                inputs=(IMAGE,),
                outputs=(EMBEDDINGS,),
                wrap=partial(_wrap_encoder, encoder.wrap, model.preprocess.image_size),
                example=encoder_example,
                feeds=encoder_feeds,
                reference=encoder_reference,
            ),
            ComponentSpec(
                name="decoder",
                inputs=anylabeling.DECODER_INPUTS,
                outputs=anylabeling.DECODER_OUTPUTS,
                wrap=partial(_wrap_decoder, decoder.wrap),
                example=anylabeling.decoder_example,
                feeds=decoder_feeds,
                reference=partial(decoder_reference, decoder.reference, model.masks.score),
            ),
        ),
        precision=(*model.precision, anylabeling.UPSCALE_IN_FP32, RESIZE_IN_FP32),
    )


def encoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the encoder's input: `input_image` uint8 HxWx3."""
    import numpy as np

    del preprocess
    return {IMAGE.name: np.ascontiguousarray(sample.image)}


def encoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return the embedding of the image, computed by the authors' code path."""
    import torch

    from effsam_export.imaging.images import frame_of, resize

    sam = as_sam(module)
    size = (sample.image.shape[0], sample.image.shape[1])
    resized = resize(sample.image, frame_of(size, sam.rule).resized)
    image = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        return {EMBEDDINGS.name: sam.encode(image).numpy()}


def decoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the decoder's inputs: points, then box corners; the mask is to have the image's size.

    The padding point is added in the graph.
    """
    import numpy as np

    feeds = anylabeling.decoder_feeds(preprocess, sample)
    return {
        **feeds,
        "point_coords": feeds["point_coords"][:, :-1],
        "point_labels": feeds["point_labels"][:, :-1],
        "orig_im_size": np.asarray(sample.image.shape[:2], dtype=np.float32),
    }


def decoder_reference(
    reference: Callable[[nn.Module, Sample], Feeds], score: str, module: nn.Module, sample: Sample
) -> Feeds:
    """Return the mask that the authors' ONNX decoder selects, in the size of the image."""
    prompt = sample.prompt
    assert prompt is not None
    size = (sample.image.shape[0], sample.image.shape[1])
    return anylabeling.selected_mask(reference(module, sample), score, prompt, size)


def _wrap_encoder(
    wrap: Callable[[nn.Module], nn.Module], size: Size, module: nn.Module
) -> nn.Module:
    from effsam_export.layouts.x_anylabeling_export import WholeImageEncoder

    assert isinstance(size, int)
    return WholeImageEncoder(wrap(module), size)


def _wrap_decoder(wrap: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    from effsam_export.layouts.x_anylabeling_export import PaddingDecoder

    return PaddingDecoder(wrap(module))


def encoder_example() -> Mapping[str, Any]:
    """Return the tracing input of the encoder."""
    import torch

    return {IMAGE.name: torch.zeros(600, 800, 3, dtype=torch.uint8)}
