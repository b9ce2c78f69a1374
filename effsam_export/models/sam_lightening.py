"""SAM-Lightening: an architecture without published weights and without a licence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    SAM_PROMPTS,
)
from effsam_export.spec.model import Licence, ModelSpec

if TYPE_CHECKING:
    from torch import nn


def build() -> nn.Module:
    """Return SAM-Lightening with the authors' state-dict names and attention in float32."""
    from effsam_export.models.lightening import LighteningEncoder
    from effsam_export.models.sam.module import Sam

    return Sam(LighteningEncoder(), SAM_PREPROCESS).eval()


SAM_LIGHTENING = ModelSpec(
    name="sam-lightening",
    title="SAM-Lightening (as its public code computes it)",
    paper="Song et al., SAM-Lightening, arXiv 2403.09195",
    origin="https://github.com/Songyanfei/SAM-LIGHTENING at 5913ec7",
    licence=Licence(
        spdx="NOASSERTION",
        source="https://github.com/Songyanfei/SAM-LIGHTENING",
        text_file="NOASSERTION-SAM-Lightening.txt",
        notice="The repository has no LICENSE file, though its headers refer to one.",
        restricted="its authors published no licence, so no right to use it is granted",
    ),
    weights=None,
    state="blocked: no weights, no licence published",
    preprocess=SAM_PREPROCESS,
    prompts=SAM_PROMPTS,
    masks=SAM_MASKS,
    components=(SAM_ENCODER, SAM_DECODER),
    build=build,
    one_image="its attention compares the windows of all images in a call",
)
