"""Parameters and MACs counted from our export forms, beside the authors' figures.

`python -m benchmarks.costs` prints the table in Markdown; it computes nothing, so it takes
seconds. The authors' figures are from their papers and repositories, as the last column says.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import counting
from effsam_export import models


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What the authors, or where they say nothing others, state: millions, and 1e9 MACs."""

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


def table() -> str:
    """All models as Markdown."""
    lines = [
        "| model | parameters, M | stated | encoder, GMACs | stated | decoder | remark |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in models.names():
        ours, stated = counting.count(models.get(name)), STATED[name]
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
