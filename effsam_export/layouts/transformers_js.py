"""Transformers.js: a model folder of type `sam`, for browsers and node.

The encoder takes normalised pixels. The decoder takes several prompts of one image and returns
SAM's three masks for each. The library adds no padding point, so the graph does. Labels 2 and 3 are
the corners of a box; the graph has no input `input_boxes`, without which a point prompt would fail.
Source: transformers.js 5ed4c5c0, `packages/transformers/src/models/sam` and
`image_processors_utils.js`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export.layouts import sam_like
from effsam_export.models.sam.components import EMBEDDINGS, SAM_PREPROCESS, as_sam
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.prompts import POSITIONS
from effsam_export.spec.tensors import Feeds, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Preprocess, Sample
    from effsam_export.spec.targets import Precision

APP = "Transformers.js"
MERGES = True
SIDE = sam_like.SIDE
SCORE = "iou_scores"
DTYPES: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}
"""Precision -> the library's name of it."""
SUFFIXES: dict[Precision, str] = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
"""Precision -> end of the name of a graph."""
USE = (
    "The model is `config.json`, `preprocessor_config.json` and the folder `onnx`.",
    "",
    "```js",
    'import { AutoProcessor, RawImage, SamModel, env } from "@huggingface/transformers";',
    "",
    'env.localModelPath = "./"; // the parent of this folder',
    "env.allowRemoteModels = false;",
    'const model = await SamModel.from_pretrained("THIS_FOLDER");',
    'const processor = await AutoProcessor.from_pretrained("THIS_FOLDER");',
    'const image = await RawImage.read("photo.jpg");',
    "const inputs = await processor(image, { input_points: [[[x, y]]], input_labels: [[1]] });",
    "const { pred_masks, iou_scores } = await model(inputs);",
    "const masks = await processor.post_process_masks(",
    "  pred_masks, inputs.original_sizes, inputs.reshaped_input_sizes);",
    "```",
    "",
    "A box is two points, its corners, with the labels 2 and 3. `effsam merge-layout` puts "
    "bundles of several precisions into one model folder.",
)

PIXELS = TensorSpec(
    name="pixel_values",
    shape=(1, 3, SIDE, SIDE),
    description="RGB, normalised, longest side 1024, padded with zeros at the bottom and right",
)
POSITIONAL = TensorSpec(
    name=POSITIONS, shape=(1, 256, 64, 64), description="positions of the cells; the same for all"
)
DECODER_INPUTS = (
    TensorSpec(
        name="input_points",
        shape=(1, "prompts", "points", 2),
        description="(x, y) in pixels of the resized image; box corners are points too",
    ),
    TensorSpec(
        name="input_labels",
        shape=(1, "prompts", "points"),
        dtype="int64",
        description="1 foreground, 0 background, 2 box top-left, 3 box bottom-right, -10 no point",
    ),
    EMBEDDINGS,
    POSITIONAL,
)
DECODER_OUTPUTS = (
    TensorSpec(name=SCORE, shape=(1, "prompts", 3), description="predicted mask quality"),
    TensorSpec(name="pred_masks", shape=(1, "prompts", 3, 256, 256), description="logits"),
)


def fault(model: ModelSpec) -> tuple[str, str] | None:
    """Return why the library cannot have a model, and a hint; None if it can."""
    return sam_like.fault_of(model, APP)


def applied(model: ModelSpec) -> ModelSpec:
    """Return a SAM-like model with the library's components, preprocessing and masks."""
    encoder, decoder = model.component("encoder"), model.component("decoder")
    return replace(
        sam_like.with_four_masks(model, APP),
        preprocess=replace(model.preprocess, family="longest-side-floor"),
        prompts=replace(model.prompts, mask=False),
        masks=replace(model.masks, single=(), multimask=(0, 1, 2), score=SCORE, read=read),
        components=(
            ComponentSpec(
                name="encoder",
                inputs=(PIXELS,),
                outputs=(EMBEDDINGS, POSITIONAL),
                wrap=partial(_wrap_encoder, encoder.wrap, decoder.wrap),
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


def paths(precision: Precision) -> Mapping[str, str]:
    """Return component -> path of its ONNX file in the bundle."""
    suffix = SUFFIXES[precision]
    return {
        "encoder": f"onnx/vision_encoder{suffix}.onnx",
        "decoder": f"onnx/prompt_encoder_mask_decoder{suffix}.onnx",
    }


def files(model: ModelSpec, precisions: Sequence[Precision]) -> Mapping[str, str]:
    """Return the configurations of the model and of its image processor.

    Without `dtype` in the caller's options, the library takes the one here: FP16 on WebGPU and INT8
    elsewhere in a browser, as far as they are there.
    """
    del model

    def first(*order: Precision) -> str:
        return DTYPES[next(p for p in order if p in precisions)]

    config = {
        "model_type": "sam",
        "architectures": ["SamModel"],
        "transformers.js_config": {
            "dtype": first("fp32", "fp16", "int8"),
            "device_config": {
                "wasm": {"dtype": first("int8", "fp32", "fp16")},
                "webgpu": {"dtype": first("fp16", "fp32", "int8")},
            },
        },
    }
    preprocessor = {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": SIDE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(v / 255, 6) for v in SAM_PREPROCESS.pixel_mean],
        "image_std": [round(v / 255, 6) for v in SAM_PREPROCESS.pixel_std],
        "do_pad": True,
        "pad_size": {"height": SIDE, "width": SIDE},
    }
    return {
        "config.json": f"{json.dumps(config, indent=2)}\n",
        "preprocessor_config.json": f"{json.dumps(preprocessor, indent=2)}\n",
    }


def read(outputs: Feeds) -> Feeds:
    """Return the masks of all prompts, and their scores, as SAM names and shapes them."""
    return {"low_res_masks": outputs["pred_masks"][0], SCORE: outputs[SCORE][0]}


def encoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the encoder's input: `pixel_values` float32 1x3x1024x1024."""
    from effsam_export.imaging.images import encoder_image

    return {PIXELS.name: encoder_image(sample.image, preprocess)}


def encoder_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return the embedding of an image, and the positions, computed by the authors' code path."""
    import torch

    from effsam_export.imaging.images import frame_of, resize

    sam = as_sam(module)
    size = (sample.image.shape[0], sample.image.shape[1])
    preprocess = replace(sam.rule, family="longest-side-floor")
    resized = resize(sample.image, frame_of(size, preprocess).resized)
    image = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        return {
            EMBEDDINGS.name: sam.encode(image).numpy(),
            POSITIONS: sam.prompt_encoder.dense_pe().numpy(),
        }


def decoder_feeds(preprocess: Preprocess, sample: Sample) -> Feeds:
    """Return the decoder's inputs: points, then the corners of a box."""
    import numpy as np

    del preprocess
    prompt = sample.prompt
    assert prompt is not None
    assert sample.embeddings is not None
    assert sample.positions is not None
    coords: list[tuple[float, float]] = [(p.x, p.y) for p in prompt.points]
    labels = [p.label for p in prompt.points]
    if prompt.box is not None:
        coords += [prompt.box[:2], prompt.box[2:]]
        labels += [2, 3]
    return {
        "input_points": np.asarray([[coords]], dtype=np.float32),
        "input_labels": np.asarray([[labels]], dtype=np.int64),
        EMBEDDINGS.name: sample.embeddings,
        POSITIONS: sample.positions,
    }


def decoder_reference(
    reference: Callable[[nn.Module, Sample], Feeds], score: str, module: nn.Module, sample: Sample
) -> Feeds:
    """Return SAM's three masks of a prompt, computed by the authors' code path.

    Args:
        reference: Returns all masks of the model, with `score` to rank them.
        score: Name of that output.
        module: The loaded model.
        sample: With a prompt in pixels of the resized image.
    """
    outputs = reference(module, sample)
    return {
        SCORE: outputs[score][None, :, 1:],
        "pred_masks": outputs["low_res_masks"][None, :, 1:],
    }


def _wrap_encoder(
    wrap: Callable[[nn.Module], nn.Module],
    wrap_decoder: Callable[[nn.Module], nn.Module],
    module: nn.Module,
) -> nn.Module:
    from effsam_export.layouts.transformers_js_export import VisionEncoder

    return VisionEncoder(wrap(module), wrap_decoder(module))


def _wrap_decoder(wrap: Callable[[nn.Module], nn.Module], module: nn.Module) -> nn.Module:
    from effsam_export.layouts.transformers_js_export import PromptDecoder

    return PromptDecoder(wrap(module))


def encoder_example() -> Mapping[str, Any]:
    """Return the tracing input of the encoder."""
    import torch

    return {PIXELS.name: torch.zeros(1, 3, SIDE, SIDE)}


def decoder_example() -> Mapping[str, Any]:
    """Return tracing inputs of the decoder: two prompts of three points."""
    import torch

    return {
        "input_points": torch.zeros(1, 2, 3, 2),
        "input_labels": torch.ones(1, 2, 3, dtype=torch.int64),
        EMBEDDINGS.name: torch.zeros(1, 256, 64, 64),
        POSITIONS: torch.zeros(1, 256, 64, 64),
    }
