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
        "--mask-input", help="Use the best mask of an earlier --masks file as mask input."
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
Format = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--format",
        metavar="table|json|coco",
        help="What is printed: a table [default], a JSON document, or one in COCO's format with "
        "the best mask of each prompt.",
    ),
]
