"""Parameters and multiply-accumulates of a model's export forms, counted without computing.

PyTorch's own counter watches the forward pass on the meta device, where tensors have shapes and no
values. It counts convolutions and matrix products, as the literature does; additions, norms,
activations, softmax and resizing are not counted. Literature that says "FLOPs" sometimes means
these, sometimes twice these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from effsam_export.spec.model import Cost

if TYPE_CHECKING:
    from effsam_export.spec.model import ComponentSpec, ModelSpec

DYNAMIC: dict[str, int] = {"prompts": 1, "points": 2}
"""What dynamic dimensions count as: one prompt of a point and its padding, or of a box."""


def count(model: ModelSpec) -> Cost:
    """Count a model: the authors' parameters, and the MACs of what is exported."""
    with torch.device("meta"):
        module = model.build()
        macs = {c.name: component_macs(module, c) for c in model.components}
    return Cost(
        parameters=sum(p.numel() for p in module.parameters()),
        encoder_macs=macs.get("encoder", macs.get("segmenter", 0)),
        decoder_macs=macs.get("decoder", 0),
    )


def component_macs(module: torch.nn.Module, component: ComponentSpec) -> int:
    """MACs of one component's export form, for one prompt of two points."""
    form = component.wrap(module).eval()
    inputs = [
        torch.zeros([DYNAMIC[d] if isinstance(d, str) else d for d in spec.shape], device="meta")
        for spec in component.inputs
    ]
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        form.to("meta")(*inputs)
    # The counter gives floating-point operations: two for each multiply-accumulate.
    return int(counter.get_total_flops()) // 2
