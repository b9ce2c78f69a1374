"""The rules that the templates implement, word for word as in a manifest.

They are copies of `bundle/contract.py` on purpose: a changed rule there must be refused here until
the templates implement it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.sizes import Size

ORIENTATION = "apply the EXIF rotation first"
PIXEL_CENTRE = "0.5 is added inside the graph; do not add it"
ORDER = ["points", "box_top_left", "box_bottom_right"]
PAD_SIDES = ["bottom", "right"]
MASK_INPUT = "low_res_masks of an earlier answer, unchanged; zeros if there is none"
BATCH = (
    "prompts with equally many points can share one call",
    "one prompt a call",
)
"""The generated code passes one prompt per call, which both rules allow."""
MASK_RULE = "a pixel is in the mask where its logit is greater than the threshold"

LONGEST_SIDE = "longest-side-pad"
SQUASH = "squash"
LETTERBOX = "letterbox"

ROUNDING = {
    LONGEST_SIDE: "int(side * longest_side / max(height, width) + 0.5)",
    SQUASH: "both sides become image_size, the aspect ratio is not kept",
}
FITTING = "int(side * min(image_size[0] / height, image_size[1] / width) + 0.5)"
"""Where height and width of the input differ."""
FILTER = {
    LONGEST_SIDE: "bilinear, antialiased when shrinking (Pillow's BILINEAR on uint8)",
    SQUASH: "bilinear, half-pixel centres, no antialiasing, on float32",
}

BICUBIC = [
    "bicubic (a = -0.75, half-pixel centres, no antialiasing) straight to the original height and "
    "width"
]


def frame(family: str, image_size: int | list[int], prompt_size: int | list[int]) -> str:
    """Return the manifest's rule for the frame of the prompts, for sizes as in the manifest."""
    if family == SQUASH:
        return f"squashed image: x * {prompt_size} / width, y * {prompt_size} / height"
    if prompt_size == image_size:
        return "resized image: x * resized_width / width, y * resized_height / height"
    return (
        f"the photograph resized to a longest side of {prompt_size}, not of {image_size}: "
        "x * new_width / width, y * new_height / height, new sides rounded as "
        f"int(side * {prompt_size} / max(height, width) + 0.5)"
    )


def closing(slots: int | None, empty: int | None) -> str:
    """Return the rule for the padding point of a decoder with dynamic shapes or slots."""
    point = "the prompt has no box: one point more, after the others"
    if slots is None:
        return point
    return f"{point}; then empty slots at (0, 0) with label {empty}, up to {slots}"


def filling(most: int) -> str:
    """Return the rule for the padding points of a decoder with a fixed number of points."""
    return f"a prompt has fewer than {most} points: up to that many"


def selection(score: str) -> str:
    """Return the rule for choosing a mask."""
    return f"of the multimask set, the mask with the greatest {score}"


def through_frame(prompt_size: Size) -> list[str]:
    """Return the steps that resize logits by way of the prompts' frame."""
    height, width = sides(prompt_size)
    return [
        f"bilinear to {height} x {width} (half-pixel centres, no antialiasing)",
        "cut to the height and width of the photograph in the prompts' frame",
        "bilinear to the original height and width",
    ]


# ------------------------------------------------------------------ segmenter

BOXED_ROUNDING = "round(side * longest_side / max(height, width))"
BOXED_FITTING = "round(side * min(image_size[0] / height, image_size[1] / width))"
BOXED_FILTER = "bilinear, half-pixel centres, no antialiasing (OpenCV's INTER_LINEAR)"
BOXED_SIDES = ["top", "left", "bottom", "right"]
BOXED_FRAME = "original image: prompts choose among the instances that were found"
INSTANCE_SELECTION = "by the prompts' host rules"
INSTANCE_PROMPTS = [
    "point: instance by instance by falling area, and for each the points in their order: where "
    "its mask holds a label-1 point it is united with the answer, where it holds a label-0 point "
    "it is taken away",
    "box: the instance whose mask has the greatest IoU with the box; several boxes, one each",
    "everything: all instances",
]
INSTANCE_RULES = [
    "round() gives the even one of two numbers that are equally near, int() drops the fraction",
    "scale = min(image_size / height, image_size / width); a side of the photograph becomes "
    "max(1, round(side * scale)), and begins round((image_size - that) / 2 - 0.1) pixels from the "
    "top or left of the letterbox",
    "the border is a rectangle in the middle of the letterbox, whose sides are those of the "
    "photograph there, each plus (image_size - side) % stride",
    "a box comes back as (x - round((image_size - width * scale) / 2 - 0.1)) / scale, y likewise "
    "with height, cut to the photograph; a pixel of whole numbers (x, y) is inside it where "
    "x0 <= x < x1 and y0 <= y < y1",
    "of prototypes of h x w, s = min(h / height, w / width), the photograph is from row "
    "int((h - height * s) / 2) up to, and without, row int(h - (h - height * s) / 2); columns "
    "likewise; bilinear has half-pixel centres and no antialiasing",
    "a mask holds a point where its pixel (int(x), int(y)) is set; the score of points is the "
    "greatest of the instances that hold a label-1 point, 0 if none does",
    "the sides of a box prompt are rounded by round() and cut to the photograph; of equal IoUs the "
    "greatest score wins; without instances the answer is an empty mask with score 0",
]

RECTANGLE_RULES = [
    INSTANCE_RULES[0],
    "scale = min(image_size[0] / height, image_size[1] / width); a side of the photograph becomes "
    "max(1, round(side * scale)), and begins round((image_size[i] - that) / 2 - 0.1) pixels from "
    "the top (i = 0) or left (i = 1) of the letterbox",
    "the border is a rectangle in the middle of the letterbox, whose sides are those of the "
    "photograph there, each plus (image_size[i] - side) % stride",
    "a box comes back as (x - round((image_size[1] - width * scale) / 2 - 0.1)) / scale, y "
    "likewise with image_size[0] and height, cut to the photograph; a pixel of whole numbers "
    "(x, y) is inside it where x0 <= x < x1 and y0 <= y < y1",
    *INSTANCE_RULES[4:],
]
"""Where height and width of the input differ."""


def instance_masks(numbers: Mapping[str, Any]) -> list[str]:
    """Return the manifest's steps from outputs to masks, with its constants."""
    return [
        f"keep boxes with scores > {numbers['confidence']:g}, by falling score; greedy NMS at IoU "
        f"{numbers['nms_iou']:g}; at most {numbers['max_instances']}",
        f"snap box sides within {numbers['border']:g} px of the border of the unpadded letterbox "
        f"to it; a box with IoU > {numbers['whole_iou']:g} with the whole is the whole",
        "logits = mask_coefficients @ prototypes; cut the letterbox padding off",
        "bilinear to the original height and width; zero outside the box",
    ]
