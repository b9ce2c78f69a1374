"""AnyLabeling and X-AnyLabeling: a custom model of type `segment_anything`.

The decoder is that of segment-anything's own ONNX export (dca509f, `utils/onnx.py`): six inputs and
one mask in the size `orig_im_size`. rembg and samexporter read the same pair of files, and the web
demo of segment-anything the decoder.

The apps scale every image from its top left pixel to fit 684 x 1024 pixels, and add a padding point
to every prompt, also to one with a box. Source: `services/auto_labeling/sam_onnx.py` of AnyLabeling
0.4.43 and X-AnyLabeling 87da3399; rembg 2.0.86, `sessions/sam.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.layouts import sam_like, x_types
from effsam_export.models.sam.components import EMBEDDINGS, as_sam
from effsam_export.spec.model import ComponentSpec, KeepFp32
from effsam_export.spec.prompts import Point
from effsam_export.spec.tensors import Feeds, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Preprocess, Prompt, Sample
    from effsam_export.spec.targets import Precision

APP = "AnyLabeling"
MERGES = False
FRAME = (684, 1024)
"""Height and width of the image that the apps feed, and of the mask that they ask for."""
SIDE = sam_like.SIDE
LOW_RES = 256
SCORE = "iou_predictions"
USE = (
    "AnyLabeling and X-AnyLabeling: *Load Custom Model*, then choose `config.yaml` here.",
    "Keep `coreml` out of the folder's path: AnyLabeling takes such a model for another kind.",
    "",
    "rembg: copy `encoder.onnx` and `decoder.onnx` to `~/.u2net/sam_vit_b_01ec64.encoder.onnx` and "
    "`~/.u2net/sam_vit_b_01ec64.decoder.onnx`, the model of the session `sam`.",
    "",
    "The web demo of segment-anything takes `decoder.onnx` as its model.",
)

IMAGE = TensorSpec(
    name="input_image",
    shape=(*FRAME, 3),
    description="RGB, 0 to 255, scaled from its top left pixel to fit, black elsewhere",
)
DECODER_INPUTS = (
    EMBEDDINGS,
    TensorSpec(
        name="point_coords",
        shape=(1, "points", 2),
        description="(x, y) in pixels of the image with a longest side of 1024; corners too",
    ),
    TensorSpec(
        name="point_labels",
        shape=(1, "points"),
        description="1 foreground, 0 background, 2 box top-left, 3 box bottom-right, -1 padding",
    ),
    TensorSpec(
        name="mask_input", shape=(1, 1, LOW_RES, LOW_RES), description="low_res_masks, or zeros"
    ),
    TensorSpec(
        name="has_mask_input", shape=(1,), description="1 if mask_input is to be used, or 0"
    ),
    TensorSpec(
        name="orig_im_size", shape=(2,), description="height and width of `masks`, whole numbers"
    ),
)
DECODER_OUTPUTS = (
    TensorSpec(
        name="masks",
        shape=(1, 1, "height", "width"),
        description="logits of one mask: the best of the set for a single point, else the first",
    ),
    TensorSpec(name=SCORE, shape=(1, 1), description="predicted quality of that mask"),
    TensorSpec(
        name="low_res_masks", shape=(1, 1, LOW_RES, LOW_RES), description="its logits, low size"
    ),
)
UPSCALE_IN_FP32 = KeepFp32(
    component="decoder",
    modules=("upscale",),
    reason="FP16 has no whole numbers above 2048 but the even ones, and sides of images are larger",
    source="IEEE 754-2019, binary16",
)


def fault(model: ModelSpec) -> tuple[str, str] | None:
    """Return why the apps cannot have a model, and a hint; None if they can."""
    found = sam_like.fault_of(model, APP)
    other_size = model.sizes is not None and model.sizes.own != SIDE
    if found is not None and other_size and model.name in x_types.TYPES:
        return found[0], "give --target x-anylabeling if the app is X-AnyLabeling"
    return found


def applied(model: ModelSpec) -> ModelSpec:
    """Return a SAM-like model with the apps' components, preprocessing and masks."""
    encoder, decoder = model.component("encoder"), model.component("decoder")
    return replace(
        sam_like.with_four_masks(model, APP),
        preprocess=replace(model.preprocess, family="corner", image_size=FRAME, prompt_size=FRAME),
        # The apps do not feed a mask back.
        prompts=replace(model.prompts, mask=False),
        masks=replace(
            model.masks,
            single=(),
            multimask=(0,),
            low_res_size=FRAME,
            score=SCORE,
            upscale="corner",
            read=read,
        ),
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
        precision=(*model.precision, UPSCALE_IN_FP32),
    )


def paths(precision: Precision) -> Mapping[str, str]:
    """Return component -> path of its ONNX file in the bundle."""
    del precision
    return {"encoder": "encoder.onnx", "decoder": "decoder.onnx"}


def files(model: ModelSpec, precisions: Sequence[Precision]) -> Mapping[str, str]:
    """Return the configuration that the apps open. JSON strings are YAML strings."""
    precision = precisions[0]
    values: dict[str, str | int] = {
        "type": "segment_anything",
        "name": f"effsam-{model.name}-{precision}",
        "display_name": f"{model.title}, {precision}",
        "encoder_model_path": paths(precision)["encoder"],
        "decoder_model_path": paths(precision)["decoder"],
        "input_size": SIDE,
        "max_width": FRAME[1],
        # The apps' own configurations say 682; the code feeds 684.
        "max_height": 682,
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return {"config.yaml": "".join(lines)}


def read(outputs: Feeds) -> Feeds:
    """Return the mask that the apps show, and its score, as SAM names them."""
    return {"low_res_masks": outputs["masks"], SCORE: outputs[SCORE]}


def encoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the encoder's input: `input_image` float32 684x1024x3."""
    import numpy as np

    from effsam_export.imaging.images import encoder_image

    planes = encoder_image(sample.image, preprocess)
    return {IMAGE.name: np.ascontiguousarray(planes[0].transpose(1, 2, 0))}


def encoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return the embedding of the apps' image, computed by the authors' code path."""
    import torch

    from effsam_export.imaging import corner

    image = torch.from_numpy(corner.fitted(sample.image, FRAME)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return {EMBEDDINGS.name: as_sam(module).encode(image).numpy()}


def decoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the decoder's inputs: points, then box corners, then always the padding point."""
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
        "point_coords": np.asarray([[*coords, (0.0, 0.0)]], dtype=np.float32),
        "point_labels": np.asarray([[*labels, -1]], dtype=np.float32),
        "mask_input": np.zeros((1, 1, LOW_RES, LOW_RES), dtype=np.float32),
        "has_mask_input": np.zeros(1, dtype=np.float32),
        "orig_im_size": np.asarray(FRAME, dtype=np.float32),
    }


def decoder_reference(
    reference: Callable[[nn.Module, Sample], Feeds], score: str, module: nn.Module, sample: Sample
) -> Feeds:
    """Return the mask that the authors' ONNX decoder selects, computed by their PyTorch code.

    Args:
        reference: Returns all masks of the model, with `score` to rank them.
        score: Name of that output.
        module: The loaded model.
        sample: With a prompt in pixels of the apps' image.
    """
    prompt = sample.prompt
    assert prompt is not None
    outputs = reference(module, replace(sample, prompt=_padded(prompt)))
    return selected_mask(outputs, score, prompt, FRAME)


def selected_mask(outputs: Feeds, score: str, prompt: Prompt, size: tuple[int, int]) -> Feeds:
    """Return the mask that segment-anything's `select_masks` selects, in (height, width).

    Args:
        outputs: `low_res_masks` and scores of all masks of a prompt.
        score: Name of the scores.
        prompt: The prompt without its padding point, which is counted for every prompt.
        size: The value of `orig_im_size`.
    """
    import numpy as np
    import torch

    points = len(prompt.points) + 1 + (0 if prompt.box is None else 2)
    scores = outputs[score] + (points - 2.5) * np.asarray([1000, 0, 0, 0], dtype=np.float32)
    best = int(np.argmax(scores[0]))
    low_res = outputs["low_res_masks"][:, best : best + 1]
    with torch.inference_mode():
        full = _postprocessed(torch.from_numpy(np.ascontiguousarray(low_res)), size)
    return {
        "masks": full.numpy(),
        SCORE: outputs[score][:, best : best + 1],
        "low_res_masks": low_res,
    }


def _padded(prompt: Prompt) -> Prompt:
    """Return a prompt with the padding point, which the reference adds only without a box."""
    if prompt.box is None:
        return prompt
    return replace(prompt, points=(*prompt.points, Point(x=0, y=0, label=-1)))


def _postprocessed(low_res: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits to (height, width). Source: `mask_postprocessing` in `utils/onnx.py`."""
    from torch.nn.functional import interpolate

    scale = SIDE / max(size)
    height, width = (int(side * scale + 0.5) for side in size)
    full = interpolate(low_res, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    out: Any = interpolate(
        full[..., :height, :width], size=size, mode="bilinear", align_corners=False
    )
    tensor: Tensor = out
    return tensor


def _wrap_encoder(wrap: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    from effsam_export.layouts.anylabeling_export import PictureEncoder

    return PictureEncoder(wrap(module))


def _wrap_decoder(wrap: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    from effsam_export.layouts.anylabeling_export import OneMaskDecoder

    return OneMaskDecoder(wrap(module))


def encoder_example() -> Mapping[str, Any]:
    """Return the tracing input of the encoder."""
    import torch

    return {IMAGE.name: torch.zeros(*FRAME, 3)}


def decoder_example() -> Mapping[str, Any]:
    """Return tracing inputs of the decoder: three points."""
    import torch

    return {
        EMBEDDINGS.name: torch.zeros(1, 256, 64, 64),
        "point_coords": torch.zeros(1, 3, 2),
        "point_labels": torch.ones(1, 3),
        "mask_input": torch.zeros(1, 1, LOW_RES, LOW_RES),
        "has_mask_input": torch.zeros(1),
        "orig_im_size": torch.tensor([float(side) for side in FRAME]),
    }
