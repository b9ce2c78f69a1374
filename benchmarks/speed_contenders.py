"""The contenders of `benchmarks.speed`: one model, as each toolchain, samexporter and we export it.

All of them are called through the contract of our encoder and decoder, so every task is the same
code for each. Plain conversions and samexporter-style graphs take one prompt a call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks import plain, upstream
from effsam_export import backends
from effsam_export.bundle import read
from effsam_export.config import calibration, int8_recipe
from effsam_export.config import targets as profiles
from effsam_export.errors import EffsamError
from effsam_export.imaging.images import stability
from effsam_export.pipeline import cached_export
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.spec.sizes import sides
from effsam_export.util.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

    from effsam_export.backends import Session
    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.tensors import Feeds

PLAIN, UPSTREAM, OURS = "plain", "samexporter-style", "ours"
RUNTIMES = ("onnx", "openvino", "tflite")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
BF16_OPTION = {"inference_precision": "bf16"}
"""OpenVINO computes an FP32 file in BF16 by a setting of the session."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An encoder and a decoder in one runtime.

    Attributes:
        kind: `plain`, `samexporter-style` or `ours`.
        precision: Of the arithmetic that was asked for.
        model: The model as the decoder takes it: of ours, with the target's fixed shapes.
        encoder, decoder: Sessions with the contract's names; None without a file.
        bytes: Size of all files that the runtime opens.
        problem: Why a file is missing.
    """

    kind: str
    runtime: str
    precision: str
    model: ModelSpec
    encoder: Session | None = None
    decoder: Session | None = None
    bytes: int = 0
    problem: str = ""

    @property
    def name(self) -> str:
        """A name that is different for each contender of a model."""
        return f"{self.kind} {self.runtime} {self.precision}"

    @property
    def batches(self) -> bool:
        """Whether one call of the decoder takes several prompts."""
        shapes = [t.shape for t in self.model.component("decoder").inputs]
        return self.kind == OURS and any("prompts" in s for s in shapes)


class PlainSession:
    """A plain conversion, called by the names of the contract.

    Args:
        model: The model, whose mask set names the score.
        run: The file, opened by `plain.open_file`.
    """

    def __init__(self, model: ModelSpec, run: Callable[[list[Tensor]], list[Tensor]]) -> None:
        self._model, self._run = model, run

    def run(self, feeds: Feeds) -> Feeds:
        """Encode an image, or decode prompts with a call each."""
        if "image" in feeds:
            return {"image_embeddings": self._run([torch.from_numpy(feeds["image"])])[0].numpy()}
        embedding = torch.from_numpy(feeds["image_embeddings"])
        calls = []
        for coords, labels in zip(feeds["point_coords"], feeds["point_labels"], strict=True):
            # The authors' code adds the padding point itself, and an empty slot is our own.
            real = labels >= 0
            points = torch.from_numpy(np.ascontiguousarray(coords[None, real]))
            calls.append(self._run([embedding, points, torch.from_numpy(labels[None, real])]))
        masks, scores = (np.concatenate([c[i].numpy() for c in calls]) for i in (0, 1))
        return scored(self._model, {"low_res_masks": masks, "iou_predictions": scores})


class UpstreamSession:
    """A samexporter-style graph, called by the names of the contract."""

    def __init__(self, model: ModelSpec, run: Callable[[Feeds], Feeds], *, normalise: bool) -> None:
        self._model, self._run, self._normalise = model, run, normalise

    def run(self, feeds: Feeds) -> Feeds:
        """Encode an image, or decode prompts with a call each, whose masks are resized too."""
        if "image" not in feeds:
            return self.resized(feeds, sides(self._model.preprocess.prompt_size))
        if not self._normalise:
            return self._run(feeds)
        rule = self._model.preprocess
        mean, std = (
            np.asarray(v, np.float32)[:, None, None] for v in (rule.pixel_mean, rule.pixel_std)
        )
        return self._run({"input_image": (feeds["image"] - mean) / std})

    def resized(self, feeds: Feeds, size: tuple[int, int]) -> Feeds:
        """Decode prompts with a call each; `masks` are those of the last, of (height, width)."""
        shared = {
            "image_embeddings": feeds["image_embeddings"],
            "mask_input": np.zeros((1, 1, *sides(self._model.masks.low_res_size)), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.asarray(size, np.float32),
        }
        calls = [
            # Copied: a runtime may use the memory of its outputs again in the next call.
            {k: np.array(v) for k, v in self._run({**shared, **one}).items()}
            for one in (
                {k: feeds[k][i : i + 1] for k in ("point_coords", "point_labels")}
                for i in range(len(feeds["point_coords"]))
            )
        ]
        low_res, scores = (
            np.concatenate([c[k] for c in calls]) for k in ("low_res_masks", "iou_predictions")
        )
        found = scored(self._model, {"low_res_masks": low_res, "iou_predictions": scores})
        return {**found, "masks": calls[-1]["masks"]}


def scored(model: ModelSpec, outputs: Feeds) -> Feeds:
    """Return outputs with the score that ranks the model's masks.

    EdgeSAM ranks them by their stability, which its authors compute outside the graph.
    """
    if model.masks.score in outputs:
        return outputs
    found = [
        [stability(mask, model.masks.threshold) for mask in masks]
        for masks in outputs["low_res_masks"]
    ]
    return {**outputs, model.masks.score: np.asarray(found, np.float32)}


def theirs(spec: ModelSpec, sam: Sam, runtime: str, folder: Path) -> Contender:
    """Return a toolchain's conversion, with its defaults, of the authors' forward pass."""
    found = Contender(kind=PLAIN, runtime=runtime, precision="fp32", model=spec)
    image = torch.zeros(tensor_shape(spec, "encoder", "image"))
    embedding = torch.zeros(tensor_shape(spec, "decoder", "image_embeddings"))
    parts: tuple[tuple[str, nn.Module, plain.Inputs], ...] = (
        ("encoder", plain.PlainEncoder(sam), (image,)),
        (
            "decoder",
            plain.PlainDecoder(sam),
            (embedding, torch.full((1, 1, 2), 300.0), torch.ones(1, 1)),
        ),
    )
    sessions, total = {}, 0
    for name, module, inputs in parts:
        made = plain.convert(runtime, module, inputs, folder / f"{spec.name}-{name}-{runtime}")
        if isinstance(made, str):
            found = replace(found, problem=f"{name}: {made}")
            continue
        total += plain.size_of(made)
        sessions[name] = PlainSession(spec, plain.open_file(runtime, made))
    return replace(
        found, encoder=sessions.get("encoder"), decoder=sessions.get("decoder"), bytes=total
    )


def samexporter_style(spec: ModelSpec, sam: Sam, folder: Path) -> Contender:
    """Return ONNX files in samexporter's style, in ONNX Runtime.

    MobileSAM's encoder is written as samexporter writes it, those of other models by the same call
    of the exporter from the authors' forward pass.
    """
    from effsam_export.models.tiny_vit import TinyViT

    found = Contender(kind=UPSTREAM, runtime="onnx", precision="fp32", model=spec)
    own = folder / f"{spec.name}-upstream"
    own.mkdir()
    normalise = isinstance(sam.image_encoder, TinyViT)
    try:
        if normalise:
            encoder = upstream.export_encoder(sam, own)
        else:
            encoder = own / upstream.ENCODER_FILE
            image = torch.zeros(tensor_shape(spec, "encoder", "image"))
            upstream.export_module(
                plain.PlainEncoder(sam), {"image": image}, ["image_embeddings"], encoder
            )
        decoder = upstream.export_decoder(sam, own)
    except Exception as error:
        # Whatever an exporter raises is the finding.
        return replace(found, problem=plain.first_line(error))
    return replace(
        found,
        encoder=UpstreamSession(spec, open_onnx(encoder), normalise=normalise),
        decoder=UpstreamSession(spec, open_onnx(decoder), normalise=False),
        bytes=plain.size_of(encoder) + plain.size_of(decoder),
    )


def ours(
    spec: ModelSpec, weights: Checkpoint, runtime: str, precision: str, folder: Path
) -> Contender:
    """Return our export, opened as its backend opens it.

    The bundle is exported into `folder` with a stage cache beside it, or taken from there.
    """
    found = Contender(kind=OURS, runtime=runtime, precision=precision, model=spec)
    if precision == "bf16" and runtime != "openvino":
        return replace(found, problem="this runtime computes nothing in BF16")
    stored = "fp32" if precision == "bf16" else precision
    output = folder / f"{spec.name}-{runtime}-{stored}"
    try:
        target = profiles.load_target(runtime, stored)
        if not output.is_dir():
            int8 = None
            if stored == "int8":
                recipe = calibration.load(calibration.DEFAULT)
                int8 = Int8Request(calibration=recipe, plan=int8_recipe.load(spec.name))
            request = ExportRequest(
                model=spec, target=target, checkpoint=weights, output=output, int8=int8
            )
            plan = cached_export.with_cache(resolve(request), request, folder / "cache")
            cached_export.run(plan)
        bundle = read.read(output)
        sessions, total = {}, 0
        for name in ("encoder", "decoder"):
            artifact = bundle.artifact(name)
            if precision == "bf16":
                artifact = replace(artifact, options={**artifact.options, **BF16_OPTION})
            # The target's own number for LiteRT is that of a phone.
            threads = usable_cores() if runtime == "tflite" else None
            sessions[name] = backends.load(artifact.backend).open_session(artifact, threads)
            total += sum(f.stat().st_size for f in artifact.files)
    except EffsamError as error:
        return replace(found, problem=plain.first_line(error))
    return replace(
        found,
        model=bundle.model,
        encoder=sessions["encoder"],
        decoder=sessions["decoder"],
        bytes=total,
    )


def tensor_shape(spec: ModelSpec, component: str, name: str) -> tuple[int, ...]:
    """Return the shape of an input that has no dynamic sizes."""
    shape = next(t.shape for t in spec.component(component).inputs if t.name == name)
    return tuple(int(size) for size in shape)


def open_onnx(path: Path) -> Callable[[Feeds], Feeds]:
    """Open a file in ONNX Runtime with its defaults."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))
