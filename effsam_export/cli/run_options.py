"""The options of `effsam run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

# Typer reads these annotations at run time, and Python 3.10 needs `Optional` there.
Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE...", help="JPEG, PNG or TIFF files, or folders of them."),
]
Points = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--point",
        metavar="X,Y[,LABEL]",
        help="A click: label 1 (default) on the object, 0 off it.",
    ),
]
Boxes = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1",
        help="One box and all points form one prompt. Several boxes are separate prompts.",
    ),
]
PromptsFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Prompts for many images: a CSV file, a JSON file, or the boxes of a COCO file.",
    ),
]
Normalized = Annotated[
    bool,
    typer.Option(
        "--normalized",
        help="Coordinates of points and boxes are fractions of the image's width and height.",
    ),
]
MaskInput = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--mask-input",
        metavar="FILE",
        help="A mask as prompt, alone or with points or a box: a black and white picture or .npy "
        "array of the image's size, or the best mask of an earlier --masks FILE.npz.",
    ),
]
Text = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--text", help="Text prompt of FastSAM; not supported yet (it needs CLIP)."),
]
Everything = Annotated[
    bool,
    typer.Option(
        "--everything",
        help="Automatic mask generation: all masks of the image, without a prompt.",
    ),
]
Grid = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--grid",
        min=1,
        max=256,
        help="With --everything: number of grid points along each side [default: 32].",
    ),
]
PointsPerBatch = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--points-per-batch",
        min=1,
        max=1024,
        help="With --everything: prompts in one call of the decoder [default: 64].",
    ),
]
PredIou = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--pred-iou-thresh",
        help="With --everything: masks with a lower score are left out [default: 0.88].",
    ),
]
Stability = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--stability-score-thresh",
        min=0,
        max=1,
        help="With --everything: masks with a lower stability are left out [default: 0.95].",
    ),
]
StabilityOffset = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--stability-score-offset",
        min=0,
        help="With --everything: offset of the logits for the stability [default: 1].",
    ),
]
BoxNms = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--box-nms-thresh",
        min=0,
        max=1,
        help="With --everything: of boxes with a greater IoU, one is kept [default: 0.7].",
    ),
]
CropLayers = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--crop-n-layers",
        min=0,
        max=4,
        help="With --everything: layers of crops that are searched too; layer N has 4**N crops, "
        "each of which is encoded [default: 0].",
    ),
]
CropNms = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--crop-nms-thresh",
        min=0,
        max=1,
        help="With --crop-n-layers: as --box-nms-thresh, between crops [default: 0.7].",
    ),
]
CropOverlap = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--crop-overlap-ratio",
        min=0,
        max=1,
        help="With --crop-n-layers: overlap of crops, as a share of the image's shorter side "
        "[default: 0.341].",
    ),
]
CropDownscale = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--crop-n-points-downscale-factor",
        min=1,
        max=256,
        help="With --crop-n-layers: in layer N, --grid is divided by this to the power of N "
        "[default: 1].",
    ),
]
MinRegion = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--min-mask-region-area",
        min=0,
        help="With --everything: holes and islands of fewer pixels are removed [default: 0].",
    ),
]
SingleMask = Annotated[
    bool,
    typer.Option(
        "--single-mask",
        help="Use the single-mask output of the model, not its multimask outputs.",
    ),
]
Range = Annotated[
    str,
    typer.Option(
        "--range",
        metavar="auto|full|LOW,HIGH",
        help="Values that become black and white. For images of more than 8 bits, auto takes "
        "the least of 8, 10, 12, 14 and 16 bits that hold them, full all of the file's type.",
    ),
]
Overlay = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|DIR",
        help="Write an overlay: the masks drawn over the image (PNG, JPEG). Several prompts are "
        "numbered, each in its own colour. A folder gets one for each image.",
    ),
]
Masks = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--masks",
        metavar="FILE|DIR",
        help="Write the masks. FILE.npz: all masks, scores and logits. FILE.png: the best mask, "
        "255 on the object; with several prompts, each prompt's number on its object. "
        "A folder: IMAGE-PROMPT.png for each prompt.",
    ),
]
SaveEmbedding = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--save-embedding",
        metavar="FILE|DIR",
        help="Keep the image's embedding in FILE.npz, or those of several images in a folder.",
    ),
]
Embedding = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--embedding",
        metavar="FILE|DIR",
        help="Take a kept embedding in place of the encoder; refused if it is of another image or "
        "bundle.",
    ),
]
Format = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--format",
        metavar="table|json|coco",
        help="What is printed: a table [default], a JSON document, or one in COCO's format with "
        "the best mask of each prompt.",
    ),
]
