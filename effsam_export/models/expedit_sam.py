"""Expedit-SAM: SAM with clustered tokens, which is faster. It has SAM's weights, untrained."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    SAM_PROMPTS,
    as_sam,
)
from effsam_export.models.sam.sizes import sam_at
from effsam_export.models.sam_vit import (
    SAM_LICENCE,
    VIT_B_WEIGHTS,
    VIT_H_WEIGHTS,
    VIT_L_WEIGHTS,
    VIT_NORMS,
    VIT_SIZES,
)
from effsam_export.models.vit_tables import fitted, size_of
from effsam_export.spec.model import ImageSizes, KeepFp32, ModelSpec, WeightFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from effsam_export.spec.prompts import Preprocess
    from effsam_export.spec.sizes import Size

DEFAULTS: dict[str, float] = {
    # From the authors' command line (`scripts/amg.py`); the defaults of their class never cluster.
    "location": 6,
    "clusters": 100,
    "iterations": 5,
    "temperature": 0.005,
    "window": 5,
    "k": 20,
}
WINDOW = 14
PRECISION = (
    VIT_NORMS,
    KeepFp32(
        component="encoder",
        modules=("image_encoder.clustering", "image_encoder.rebuilding"),
        reason="squared distances are small differences of large sums: FP16 changes which centres "
        "a token belongs to, and large tokens overflow",
        source="simulated on smooth tokens of width 768 (tests/models/test_fp16_forms.py): 7 % "
        "error in FP16, below 0.1 % in FP32",
    ),
)


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export, with the normalisation of the image."""
    from effsam_export.models.expedit import export_form
    from effsam_export.models.sam.export import ExportEncoder

    return ExportEncoder(as_sam(module), export_form)


ENCODER = replace(SAM_ENCODER, wrap=wrap_encoder)


def build(
    size: str, options: Mapping[str, float], preprocess: Preprocess = SAM_PREPROCESS
) -> nn.Module:
    """Return Expedit-SAM of one size with SAM's state-dict names, weights not loaded."""
    from effsam_export.models.expedit import Clustering, ExpeditEncoder
    from effsam_export.models.sam.module import Sam

    rule = Clustering(
        location=int(options["location"]),
        clusters=int(options["clusters"]),
        iterations=int(options["iterations"]),
        temperature=options["temperature"],
        window=int(options["window"]),
        k=int(options["k"]),
    )
    dim, depth, heads, global_blocks = VIT_SIZES[size]
    encoder = ExpeditEncoder(
        rule,
        dim=dim,
        depth=depth,
        num_heads=heads,
        global_blocks=global_blocks,
        image_size=preprocess.image_size,
    )
    return Sam(encoder, preprocess).eval()


def at_size(size: str, model: ModelSpec, pixels: Size) -> ModelSpec:
    """Return Expedit-SAM for another size of input; the tables of a checkpoint are resized."""
    return replace(
        sam_at(partial(build, size, model.options), model, pixels),
        fit=partial(fitted, VIT_SIZES[size][3], pixels),
    )


def with_options(size: str, weights: WeightFile, options: Mapping[str, float]) -> ModelSpec:
    """Return the model with other model options.

    Raises:
        UsageError: Unknown names, values out of range, or values that change nothing.
    """
    unknown = [name for name in options if name not in DEFAULTS]
    problems = [f"there is no model option `{name}`" for name in unknown]
    values = {**DEFAULTS, **{k: v for k, v in options.items() if k in DEFAULTS}}
    problems += faults(values, VIT_SIZES[size][1])
    if problems:
        raise UsageError(
            f"expedit-sam-vit-{size}: {'; '.join(problems)}",
            hint=f"the model options are {', '.join(f'{k}={v:g}' for k, v in DEFAULTS.items())}",
        )
    return replace(_spec(size, weights), options=values, build=partial(build, size, values))


def faults(values: Mapping[str, float], depth: int) -> list[str]:
    """Return what is wrong with option values for an encoder of `depth` blocks, as sentences."""
    problems = [
        f"`{name}` has to be a whole number, not {value:g}"
        for name, value in values.items()
        if name != "temperature" and value != int(value)
    ]
    if problems:
        return problems
    location, clusters = int(values["location"]), int(values["clusters"])
    if not 0 <= location < depth:
        problems.append(f"location={location} is not a block of the encoder: want 0 to {depth - 1}")
    side = math.isqrt(max(clusters, 0))
    if clusters < 1 or side * side != clusters:
        problems.append(f"clusters={clusters} is not a square number")
    elif side >= WINDOW:
        problems.append(
            f"clusters={clusters} has to be smaller than the {WINDOW * WINDOW} tokens of a window"
        )
    if values["iterations"] < 1:
        problems.append("iterations has to be 1 or more")
    if values["temperature"] <= 0:
        problems.append("temperature has to be greater than 0")
    if values["window"] < 1 or int(values["window"]) % 2 == 0:
        problems.append("window has to be odd")
    if not 1 <= values["k"] <= max(clusters, 1):
        problems.append(f"k has to be 1 to {max(clusters, 1)}")
    return problems


def _spec(size: str, weights: WeightFile) -> ModelSpec:
    return ModelSpec(
        name=f"expedit-sam-vit-{size}",
        title=f"Expedit-SAM (clustered ViT-{size.upper()} encoder, SAM's weights)",
        paper="Liang et al., Expediting Large-Scale Vision Transformer, arXiv 2210.01035",
        origin="https://github.com/Expedit-LargeScale-Vision-Transformer/Expedit-SAM at 75a1c30",
        licence=SAM_LICENCE,
        weights=weights,
        state="architecture verified",
        preprocess=SAM_PREPROCESS,
        prompts=SAM_PROMPTS,
        masks=SAM_MASKS,
        components=(ENCODER, SAM_DECODER),
        build=partial(build, size, DEFAULTS),
        sizes=ImageSizes(multiple=16, at=partial(at_size, size), of_state=size_of),
        options=DEFAULTS,
        with_options=partial(with_options, size, weights),
        precision=PRECISION,
    )


EXPEDIT_SAM_VIT_B = _spec("b", VIT_B_WEIGHTS)
EXPEDIT_SAM_VIT_L = _spec("l", VIT_L_WEIGHTS)
EXPEDIT_SAM_VIT_H = _spec("h", VIT_H_WEIGHTS)
