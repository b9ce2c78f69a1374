"""The contenders and their inputs: encoder, decoder, and eight prompts at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional

from benchmarks.exports import UPSTREAM, files_of
from effsam_export.imaging import images
from effsam_export.imaging.decode import load_image
from effsam_export.models.sam.components import SAM_MASKS, stack_decoder_feeds
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from effsam_export.imaging.images import Frame
    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Array, Feeds, Float32

    Call = Callable[[], Mapping[str, Array]]
    Graph = Callable[[Feeds], Mapping[str, Array]]

Runtime = Literal["eager", "onnxruntime", "openvino"]
ORIGINAL = (1200, 1800)
"""(height, width) of the image, and of masks that are resized to it."""
PROMPTS = 8
OURS: dict[str, tuple[Runtime, str]] = {
    # contender -> runtime, kind of export
    "ours, ONNX Runtime": ("onnxruntime", "onnx-fp32"),
    "ours, OpenVINO fp32": ("openvino", "openvino-fp32"),
    "ours, OpenVINO fp16": ("openvino", "openvino-fp16"),
}
THEIRS: dict[str, Runtime] = {
    "upstream, ONNX Runtime": "onnxruntime",
    "upstream, OpenVINO": "openvino",
}
EAGER = "eager PyTorch"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One implementation that is timed.

    Attributes:
        upstream: Name of the upstream contender in the same runtime and group, or None.
        call: Runs once and returns the outputs by name.
    """

    name: str
    upstream: str | None
    call: Call


@dataclass(frozen=True, kw_only=True)
class Group:
    """Contenders that do the same work, and the output that is compared with eager PyTorch."""

    title: str
    compared: str
    contenders: tuple[Contender, ...]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of every contender.

    Attributes:
        sample: Resized image, and its embedding by eager PyTorch.
        image: `image` float32 1x3x1024x1024, RGB 0 to 255, padded with the pixel mean.
        prompts: Eight prompts of one point each, in model-frame pixels. Single-prompt contenders
            use the first.
    """

    frame: Frame
    sample: Sample
    image: Float32
    prompts: tuple[Prompt, ...]


def prepare(spec: ModelSpec, sam: Sam, path: Path) -> Inputs:
    """Return an image stretched to `ORIGINAL`, its embedding, and points on a grid."""
    frame = images.frame_of(ORIGINAL, spec.preprocess)
    image = images.resize(load_image(path), ORIGINAL)
    with torch.inference_mode():
        embedded = sam.encode(_to_torch(images.resize(image, frame.resized)))
    h, w = frame.resized
    spots = [(w * (i + 0.5) / 4, h * (j + 0.5) / 2) for j in range(2) for i in range(4)]
    return Inputs(
        frame=frame,
        sample=Sample(image=image, embeddings=embedded.numpy()),
        image=images.encoder_image(image, spec.preprocess),
        prompts=tuple(Prompt(points=(Point(x=x, y=y),)) for x, y in spots[:PROMPTS]),
    )


def encoders(
    spec: ModelSpec, sam: Sam, inputs: Inputs, output: Path, upstream_encoder: Path | None
) -> Group:
    """Return encoders: image in the model frame to embedding. Upstream gets it normalised."""
    photo = _to_torch(images.resize(inputs.sample.image, inputs.frame.resized))
    mean, std = (
        np.asarray(v, dtype=np.float32)[:, None, None]
        for v in (spec.preprocess.pixel_mean, spec.preprocess.pixel_std)
    )
    theirs = {"input_image": (inputs.image - mean) / std}

    def eager() -> Mapping[str, Array]:
        with torch.inference_mode():
            return {"image_embeddings": sam.encode(photo).numpy()}

    found = [Contender(name=EAGER, upstream=None, call=eager)]
    path = upstream_encoder or output / UPSTREAM / "encoder.onnx"
    for name, runtime in THEIRS.items():
        found.append(Contender(name=name, upstream=name, call=_bind(runtime, path, theirs)))
    for name, (runtime, kind) in OURS.items():
        call = _bind(runtime, files_of(output / kind, "encoder")[-1], {"image": inputs.image})
        found.append(Contender(name=name, upstream=_upstream_of(runtime), call=call))
    return Group(title="encoder", compared="image_embeddings", contenders=tuple(found))


def decoders(
    spec: ModelSpec, sam: Sam, inputs: Inputs, output: Path, upstream_decoder: Path | None
) -> list[Group]:
    """Return decoders for one and eight prompts, with 256x256 logits and full-size masks."""
    path = upstream_decoder or output / UPSTREAM / "decoder.onnx"
    theirs = {name: open_graph(runtime, path) for name, runtime in THEIRS.items()}
    ours = {
        name: open_graph(runtime, files_of(output / kind, "decoder")[-1])
        for name, (runtime, kind) in OURS.items()
    }
    groups = []
    for count in (1, PROMPTS):
        prompts = inputs.prompts[:count]
        each = [
            spec.component("decoder").feeds(spec.preprocess, replace(inputs.sample, prompt=p))
            for p in prompts
        ]
        batch = stack_decoder_feeds(each)
        said = "1 prompt" if count == 1 else f"{count} prompts"
        small = [Contender(name=EAGER, upstream=None, call=_eager(sam, inputs, prompts, False))]
        full = [Contender(name=EAGER, upstream=None, call=_eager(sam, inputs, prompts, True))]
        size = np.asarray(inputs.frame.original, dtype=np.float32)
        for name, graph in theirs.items():
            calls = [{**feeds, "orig_im_size": size} for feeds in each]
            full.append(Contender(name=name, upstream=name, call=_one_by_one(graph, calls)))
        for name, graph in ours.items():
            call = _once(graph, batch)
            small.append(Contender(name=name, upstream=None, call=call))
            full.append(
                Contender(
                    name=f"{name} + upscale_masks",
                    upstream=_upstream_of(OURS[name][0]),
                    call=_upscaled(call, inputs.frame),
                )
            )
            if count > 1:
                call = _one_by_one(graph, each)
                small.append(Contender(name=f"{name}, {count} calls", upstream=None, call=call))
        h, w = inputs.frame.original
        groups += [
            Group(
                title=f"decoder, {said}, 4 masks each of 256x256",
                compared="low_res_masks",
                contenders=tuple(small),
            ),
            Group(
                title=f"decoder, {said}, 4 masks each at the original size {h}x{w}",
                compared="masks",
                contenders=tuple(full),
            ),
        ]
    return groups


def open_graph(runtime: Runtime, path: Path) -> Graph:
    """Open a file with a runtime's default threads, as the backends do, without output copies."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session: Any = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))
    import openvino

    # FP32 arithmetic for both sides: on a CPU with AMX the default is BF16.
    options_ov = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled: Any = openvino.Core().compile_model(str(path), "CPU", options_ov)
    return lambda feeds: {p.get_any_name(): v for p, v in compiled(dict(feeds)).items()}


def openvino_threads(path: Path) -> int:
    """Return the number of threads that OpenVINO uses for a model by default."""
    import openvino

    compiled: Any = openvino.Core().compile_model(str(path), "CPU")
    return int(compiled.get_property("INFERENCE_NUM_THREADS"))


def _upstream_of(runtime: Runtime) -> str:
    return next(name for name, r in THEIRS.items() if r == runtime)


def _to_torch(resized: Array) -> torch.Tensor:
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float()


def _bind(runtime: Runtime, path: Path, feeds: Feeds) -> Call:
    return _once(open_graph(runtime, path), feeds)


def _once(graph: Graph, feeds: Feeds) -> Call:
    return lambda: graph(feeds)


def _one_by_one(graph: Graph, calls: list[Any]) -> Call:
    def run() -> Mapping[str, Array]:
        # Copied where there are several: a runtime may reuse its output memory in the next call.
        if len(calls) == 1:
            return graph(calls[0])
        answers = [{k: np.array(v) for k, v in graph(feeds).items()} for feeds in calls]
        return {k: np.concatenate([a[k] for a in answers]) for k in answers[0]}

    return run


def _upscaled(call: Call, frame: Frame) -> Call:
    def run() -> Mapping[str, Array]:
        low_res = call()["low_res_masks"]
        masks = images.upscale_masks(low_res.reshape(-1, *low_res.shape[2:]), frame, SAM_MASKS)
        return {"masks": masks.reshape(*low_res.shape[:2], *frame.original)}

    return run


def _eager(sam: Sam, inputs: Inputs, prompts: tuple[Prompt, ...], resize: bool) -> Call:
    """Run the PyTorch model on all prompts at once; `resize` masks with torch as the authors do."""
    embedding = torch.as_tensor(inputs.sample.embeddings)
    points = [[(p.x, p.y) for p in prompt.points] for prompt in prompts]
    coords = torch.tensor(points, dtype=torch.float32)
    labels = torch.ones(coords.shape[:2])
    h, w = inputs.frame.resized
    square = sides(inputs.frame.image_size)

    def run() -> Mapping[str, Array]:
        with torch.inference_mode():
            masks, _ = sam.decode(embedding, (coords, labels), None, None)
            if not resize:
                return {"low_res_masks": masks.numpy()}
            masks = functional.interpolate(masks, square, mode="bilinear")[..., :h, :w]
            masks = functional.interpolate(masks, inputs.frame.original, mode="bilinear")
            return {"masks": masks.numpy()}

    return run
