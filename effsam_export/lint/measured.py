"""Measure the values of a model's graphs on an image and its prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import frame_of
from effsam_export.inference import runner
from effsam_export.precision.ranges import Ranges
from effsam_export.precision.ranges import measure as record
from effsam_export.spec.prompts import Sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn
    from torch.export import ExportedProgram

    from effsam_export.config.parity import ParityImage
    from effsam_export.spec.model import ComponentName, ModelSpec
    from effsam_export.spec.tensors import Feeds, Float32

    Programs = Mapping[ComponentName, ExportedProgram]


def measure(
    model: ModelSpec, module: nn.Module, programs: Programs, images: Sequence[ParityImage]
) -> dict[str, Ranges]:
    """Return the value ranges of every traced component, on each image and all of its prompts.

    The decoder gets the embedding of the traced encoder, or of the PyTorch model if the encoder was
    not traced.
    """
    ranges: dict[str, Ranges] = {name: {} for name in programs}
    for row in images:
        image = load_image(row.path, row.value_range)
        sample = Sample(image=image)
        first = model.components[0]
        embeddings: Feeds = {}
        if first.name in programs:
            feeds = first.feeds(model.preprocess, sample)
            outputs = record(programs[first.name], feeds, ranges[first.name])
            embeddings = {
                spec.name: tensor.numpy()
                for spec, tensor in zip(first.outputs, outputs, strict=True)
            }
        elif "decoder" in programs:
            embeddings = first.reference(module, sample)
        if "decoder" in programs:
            embedded = _embedded(model, image, embeddings)
            _decoder(model, programs["decoder"], embedded, row, ranges["decoder"])
    return ranges


def _embedded(model: ModelSpec, image: NDArray[np.uint8], outputs: Feeds) -> runner.Embedded:
    frame = frame_of((image.shape[0], image.shape[1]), model.preprocess)
    return runner.Embedded(frame=frame, sample=Sample(image=image).encoded(outputs))


def _decoder(
    model: ModelSpec,
    program: ExportedProgram,
    embedded: runner.Embedded,
    row: ParityImage,
    ranges: Ranges,
) -> None:
    """Run every prompt of an image in order, so that an earlier mask can be fed back."""
    spec = model.component("decoder")
    best: dict[str, Float32] = {}
    for case in row.cases:
        prompt = case.prompt
        if case.mask_from is not None:
            prompt = replace(prompt, mask_input=best[case.mask_from])
        feeds = runner.decoder_feeds(model, embedded, prompt)
        found = record(program, feeds, ranges)
        outputs = model.masks.of(
            {s.name: t.numpy() for s, t in zip(spec.outputs, found, strict=True)}
        )
        multimask = list(model.masks.multimask)
        index = multimask[int(np.argmax(outputs[model.masks.score][0][multimask]))]
        best[case.name] = np.ascontiguousarray(outputs["low_res_masks"][0, index], np.float32)
