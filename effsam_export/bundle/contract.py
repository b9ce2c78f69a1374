"""The calling rules in the manifest: `components`, `preprocess`, `prompts` and `masks`.

The sentences are part of the contract: generated code is written for exactly these words
(`integrate/rules.py`). Another wording needs another `CONTRACT_VERSION`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from effsam_export.models.fixed import EMPTY_LABEL
from effsam_export.spec import batches
from effsam_export.spec.sizes import document, sides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.prompts import Preprocess
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import TensorSpec

ROUNDING = "int(side * longest_side / max(height, width) + 0.5)"
FITTING = "int(side * min(image_size[0] / height, image_size[1] / width) + 0.5)"
"""Where height and width of the input differ."""
BOXED_ROUNDING = "round(side * longest_side / max(height, width))"
BOXED_FITTING = "round(side * min(image_size[0] / height, image_size[1] / width))"
NO_ANTIALIASING = "bilinear, half-pixel centres, no antialiasing, on float32"
LINEAR = "bilinear, half-pixel centres, no antialiasing (OpenCV's INTER_LINEAR)"
FLOORED = "int(round(side * longest_side / max(height, width), 2))"
FROM_CORNER = (
    "bilinear, no antialiasing, rounded to whole numbers: pixel (x, y) has the value at "
    "(x / scale, y / scale), as OpenCV's warpAffine with INTER_LINEAR"
)
LETTERBOX_GREY = 114
PADDING_INSIDE = ("longest-side-linear", "whole")
"""Families whose decoder takes one prompt a call, and adds the padding point inside the graph."""


def tensors(
    component: ComponentSpec, options: Mapping[str, str | int | float | bool]
) -> dict[str, list[dict[str, Any]]]:
    """Return the `inputs` and `outputs` of a component.

    Args:
        component: With its names, shapes and dtypes.
        options: Target options; with `image_input`, Core ML takes the image as a picture.
    """
    picture = options.get("image_input")
    return {
        "inputs": [
            _image_input(t) if t.name == "image" and picture else _tensor(t)
            for t in component.inputs
        ],
        "outputs": [_tensor(t) for t in component.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "description": spec.description,
    }


def _image_input(spec: TensorSpec) -> dict[str, Any]:
    """Return an input that Core ML takes as an image; its pixels are whole numbers, padding too."""
    _, channels, height, width = spec.shape
    return {
        "name": spec.name,
        "dtype": "uint8",
        "shape": [height, width, channels],
        "description": f"picture: {spec.description}, rounded to whole numbers",
    }


def preprocess(model: ModelSpec) -> dict[str, Any]:
    """Return the rules from an image file to the `image` input."""
    p = model.preprocess
    return {
        "family": p.family,
        "orientation": "apply the EXIF rotation first",
        "colour": "RGB",
        "range": [0, 255],
        "layout": "HWC" if p.family in ("corner", "whole") else "NCHW",
        "image_size": document(p.image_size),
        **({} if model.batch == 1 else {"batch": batches.document(model.batch)}),
        "resize": _resize(p),
        "pad": _pad(p),
        "normalisation": {
            "inside_graph": p.family != "longest-side-floor",
            "mean": list(p.pixel_mean),
            "std": list(p.pixel_std),
        },
    }


def _resize(p: Preprocess) -> dict[str, Any]:
    match p.family:
        case "longest-side-pad":
            square = isinstance(p.image_size, int)
            return {
                "longest_side": p.image_size if square else None,
                "rounding": ROUNDING if square else FITTING,
                "filter": "bilinear, antialiased when shrinking (Pillow's BILINEAR on uint8)",
            }
        case "squash":
            return {
                "longest_side": None,
                "rounding": "both sides become image_size, the aspect ratio is not kept",
                "filter": NO_ANTIALIASING,
            }
        case "longest-side-floor":
            return {
                "longest_side": p.image_size,
                "rounding": FLOORED,
                "filter": "bilinear, as the platform has it: canvas in browsers, libvips in node",
            }
        case "longest-side-linear":
            return {
                "longest_side": p.image_size,
                "rounding": ROUNDING,
                "filter": LINEAR,
            }
        case "whole":
            return {
                "longest_side": None,
                "rounding": "the graph takes the image in its own size, and resizes it",
                "filter": "none outside the graph",
            }
        case "corner":
            return {
                "longest_side": None,
                "rounding": "scale = min(image_size[0] / height, image_size[1] / width)",
                "filter": FROM_CORNER,
            }
        case "letterbox":
            square = isinstance(p.image_size, int)
            return {
                "longest_side": p.image_size if square else None,
                "rounding": BOXED_ROUNDING if square else BOXED_FITTING,
                "filter": LINEAR,
            }


def _pad(p: Preprocess) -> dict[str, Any] | None:
    match p.family:
        case "longest-side-pad":
            return {"sides": ["bottom", "right"], "value": list(p.pixel_mean)}
        case "squash" | "longest-side-linear" | "whole":
            return None
        case "corner" | "longest-side-floor":
            return {"sides": ["bottom", "right"], "value": [0.0, 0.0, 0.0]}
        case "letterbox":
            sides = ["top", "left", "bottom", "right"]
            return {"sides": sides, "value": [float(LETTERBOX_GREY)] * 3}


def prompts(model: ModelSpec) -> dict[str, Any]:
    """Return the rules for points, boxes and masks."""
    one_prompt = model.preprocess.family in ("corner", *PADDING_INSIDE)
    return {
        "coordinates": {
            "order": "xy",
            "frame": _frame(model),
            "size": document(model.preprocess.prompt_size),
            "pixel_centre": "0.5 is added inside the graph; do not add it",
        },
        "labels": {
            "foreground": 1,
            "background": 0 if model.prompts.negative_points else None,
            "box_top_left": 2,
            "box_bottom_right": 3,
            "padding": -1,
            "empty": None if model.prompts.slots is None else int(EMPTY_LABEL),
        },
        "order": ["points", "box_top_left", "box_bottom_right"],
        "padding": _padding(model),
        "mask_input": "low_res_masks of an earlier answer, unchanged; zeros if there is none"
        if model.prompts.mask
        else None,
        "batch": "prompts with equally many points can share one call"
        if model.prompts.slots is None and not one_prompt
        else "one prompt a call",
        "host_rules": list(INSTANCE_PROMPTS) if model.finds_instances else [],
        "supports": asdict(model.prompts),
    }


def _frame(model: ModelSpec) -> str:
    p = model.preprocess
    match p.family:
        case "longest-side-pad" | "whole" if p.prompt_size != p.image_size:
            return (
                f"the photograph resized to a longest side of {p.prompt_size}, not of "
                f"{p.image_size}: x * new_width / width, y * new_height / height, new sides "
                f"rounded as int(side * {p.prompt_size} / max(height, width) + 0.5)"
            )
        case "longest-side-pad" | "longest-side-floor" | "longest-side-linear" | "whole":
            return "resized image: x * resized_width / width, y * resized_height / height"
        case "corner":
            return "scaled image: x * scale, y * scale"
        case "squash":
            return f"squashed image: x * {p.prompt_size} / width, y * {p.prompt_size} / height"
        case "letterbox":
            return "original image: prompts choose among the instances that were found"


def _padding(model: ModelSpec) -> dict[str, Any] | None:
    if model.finds_instances or model.preprocess.family in ("longest-side-floor", *PADDING_INSIDE):
        return None
    if model.preprocess.family == "corner":
        return {
            "when": "always: one point more, after the points and corners",
            "coordinates": [0, 0],
            "label": -1,
        }
    if model.prompts.max_points is not None and model.prompts.slots is None:
        return {
            "when": f"a prompt has fewer than {model.prompts.max_points} points: up to that many",
            "coordinates": [-1, -1],
            "label": -1,
        }
    then = ""
    if model.prompts.slots is not None:
        then = f"; then empty slots at (0, 0) with label -2, up to {model.prompts.slots}"
    return {
        "when": f"the prompt has no box: one point more, after the others{then}",
        "coordinates": [0, 0],
        "label": -1,
    }


INSTANCE_PROMPTS = (
    "point: instance by instance by falling area, and for each the points in their order: where "
    "its mask holds a label-1 point it is united with the answer, where it holds a label-0 point "
    "it is taken away",
    "box: the instance whose mask has the greatest IoU with the box; several boxes, one each",
    "everything: all instances",
)
INSTANCE_RULES = (
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
)
"""Details that the shorter sentences of `resize`, `masks` and `prompts` leave out."""
RECTANGLE_RULES = (
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
)
"""Where height and width of the input differ."""


def masks(model: ModelSpec) -> dict[str, Any]:
    """Return which masks are the answer, and how logits become masks."""
    m = model.masks
    instances = (
        {"instances": _instances(model.preprocess.image_size)} if model.finds_instances else {}
    )
    choice = f"of the multimask set, the mask with the greatest {m.score}"
    return {
        "single": list(m.single),
        "multimask": list(m.multimask),
        "score": m.score,
        "select": "by the prompts' host rules" if model.finds_instances else choice,
        "threshold": m.threshold,
        "rule": "a pixel is in the mask where its logit is greater than the threshold",
        "low_res_size": document(m.low_res_size),
        "resize": _upscale(model),
        **instances,
    }


def _instances(image_size: Size) -> dict[str, Any]:
    """Return the constants and exact rules for turning outputs into instances."""
    from effsam_export.imaging import instances, letterbox

    return {
        "confidence": instances.CONFIDENCE,
        "nms_iou": instances.NMS_IOU,
        "max_instances": instances.MAX_INSTANCES,
        "border": instances.BORDER_PX,
        "whole_iou": instances.WHOLE_IOU,
        "stride": letterbox.STRIDE,
        "rules": list(INSTANCE_RULES if isinstance(image_size, int) else RECTANGLE_RULES),
    }


def _upscale(model: ModelSpec) -> list[str]:
    if model.finds_instances:
        found = _instances(model.preprocess.image_size)
        return [
            f"keep boxes with scores > {found['confidence']:g}, by falling score; greedy NMS at "
            f"IoU {found['nms_iou']:g}; at most {found['max_instances']}",
            f"snap box sides within {found['border']:g} px of the border of the unpadded letterbox "
            f"to it; a box with IoU > {found['whole_iou']:g} with the whole is the whole",
            "logits = mask_coefficients @ prototypes; cut the letterbox padding off",
            "bilinear to the original height and width; zero outside the box",
        ]
    if model.masks.upscale == "bicubic":
        return [
            "bicubic (a = -0.75, half-pixel centres, no antialiasing) straight to the original "
            "height and width"
        ]
    if model.masks.upscale == "none":
        return ["ask for `masks` of the original height and width with orig_im_size"]
    height, width = sides(model.preprocess.prompt_size)
    if model.masks.upscale == "corner":
        return [
            f"ask for `masks` of {height} x {width} with orig_im_size",
            "bilinear to the original height and width: pixel (x, y) has the value at (x * scale, "
            "y * scale), as OpenCV's warpAffine with the inverse of the image's matrix",
        ]
    return [
        f"bilinear to {height} x {width} (half-pixel centres, no antialiasing)",
        "cut to the height and width of the photograph in the prompts' frame",
        "bilinear to the original height and width",
    ]
