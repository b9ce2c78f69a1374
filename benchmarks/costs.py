"""Count parameters and multiply-accumulates (MACs) of the export forms, and print a table.

`python -m benchmarks.costs` prints the counts in Markdown beside the authors' figures, which are
from their papers and repositories, as the last column says.

PyTorch's own counter watches a forward pass on the meta device, where tensors have shapes and no
values. It counts convolutions and matrix products, as the literature does. Additions, norms,
activations, softmax and resizing are not counted. "FLOPs" in the literature are MACs, or two per
MAC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from effsam_export import models
from effsam_export.spec.model import Cost

if TYPE_CHECKING:
    from effsam_export.spec.model import ComponentSpec, ModelSpec

DYNAMIC: dict[str, int] = {"prompts": 1, "points": 2}
"""Size of each dynamic dimension in the count: one prompt of one point and its padding."""


@dataclass(frozen=True, kw_only=True)
class Stated:
    """Figures of the authors, or of others where they state none.

    Attributes:
        parameters: In millions.
        macs: Of the encoder, in 1e9.
        remark: Source and differences.
    """

    parameters: float | None
    macs: float | None
    remark: str


STATED: dict[str, Stated] = {
    "sam-vit-b": Stated(
        parameters=91,
        macs=487,
        remark="MACs: TinySAM's table. The 375 MB file holds our 93.7 M; encoder alone 89.7",
    ),
    "sam-vit-l": Stated(
        parameters=308, macs=1491, remark="MACs: TinySAM's table; 308 M is the encoder alone"
    ),
    "sam-vit-h": Stated(parameters=641, macs=2976, remark="MACs: TinySAM's table (2973 elsewhere)"),
    "mobile-sam": Stated(
        parameters=9.66,
        macs=38.2,
        remark="README; MACs 38.2 to 42 by source. Ours holds TinyViT's unused head (0.32 M) and "
        "the mask prompt's layers, both in the checkpoint",
    ),
    "edge-sam": Stated(parameters=9.6, macs=20.1, remark="paper; 22.1 with the decoder"),
    "edge-sam-3x": Stated(parameters=9.6, macs=20.1, remark="as EdgeSAM"),
    "efficient-sam-ti": Stated(
        parameters=10.2, macs=102, remark="paper; MACs: half of 204.5 GFLOPs"
    ),
    "efficient-sam-s": Stated(
        parameters=26.4, macs=247, remark="paper; MACs: EfficientViT-SAM paper"
    ),
    "efficientvit-sam-l0": Stated(parameters=34.8, macs=35, remark="README"),
    "efficientvit-sam-l1": Stated(parameters=47.7, macs=49, remark="README"),
    "efficientvit-sam-l2": Stated(parameters=61.3, macs=69, remark="README"),
    "efficientvit-sam-xl0": Stated(parameters=117.0, macs=185, remark="README"),
    "efficientvit-sam-xl1": Stated(parameters=203.3, macs=322, remark="README"),
    "repvit-sam": Stated(
        parameters=27.2, macs=113, remark="third party; branches merged: the counts before are more"
    ),
    "slim-sam-50": Stated(
        parameters=28.0, macs=None, remark="112 MB file / 4 bytes; MACs not stated"
    ),
    "slim-sam-77": Stated(
        parameters=9.1,
        macs=23,
        remark="README (abstract: encoder, 5.7 M and 21 G). Ours has 25.1 G more: the products of "
        "queries with keys and of weights with values (22.5 G in the four global blocks), which "
        "counters of layers do not see; 46.6 - 25.1 = 21.5",
    ),
    "fast-sam-s": Stated(parameters=11.8, macs=51.1, remark="half of 102.2 GFLOPs at 1024"),
    "fast-sam-x": Stated(
        parameters=72.2,
        macs=422.5,
        remark="half of 845.1 GFLOPs at 1024; README says 68 M parameters, the detector without "
        "masks (YOLOv8x)",
    ),
    "expedit-sam-vit-b": Stated(
        parameters=91, macs=None, remark="SAM's weights; counted at location=6, clusters=100"
    ),
    "expedit-sam-vit-l": Stated(parameters=308, macs=None, remark="as above"),
    "expedit-sam-vit-h": Stated(parameters=641, macs=None, remark="as above"),
    "sam-lightening": Stated(parameters=None, macs=None, remark="nothing published"),
}


def count(model: ModelSpec) -> Cost:
    """Count the parameters of the authors' model and the MACs of its export forms."""
    with torch.device("meta"):
        module = model.build()
        macs = {c.name: component_macs(module, c) for c in model.components}
    return Cost(
        parameters=sum(p.numel() for p in module.parameters()),
        encoder_macs=macs.get("encoder", macs.get("segmenter", 0)),
        decoder_macs=macs.get("decoder", 0),
    )


def component_macs(module: torch.nn.Module, component: ComponentSpec) -> int:
    """Count the MACs of one component's export form, for one prompt of two points."""
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


def table() -> str:
    """Return the counts of all models as a Markdown table."""
    lines = [
        "| model | parameters, M | stated | encoder, GMACs | stated | decoder | remark |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in models.names():
        ours, stated = count(models.get(name)), STATED[name]
        lines.append(
            f"| `{name}` | {ours.parameters / 1e6:.2f} | {_number(stated.parameters)} "
            f"| {ours.encoder_macs / 1e9:.1f} | {_number(stated.macs)} "
            f"| {ours.decoder_macs / 1e9:.2f} | {stated.remark} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


if __name__ == "__main__":
    print(table())
