"""Read the contract of a bundle of a segmenter (FastSAM); refuse unsupported rules.

The graph returns boxes, scores, coefficients and prototypes. The app does the rest by the constants
in the manifest's `masks.instances` and the rules beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.errors import UsageError
from effsam_export.integrate import rules
from effsam_export.integrate.contract import (
    ENCODER_INPUT,
    Component,
    Reader,
    axis_of,
    component_of,
    filled_slots,
    shapes_of,
    short,
)
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.spec.sizes import from_document, sides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.sizes import Size

BOXES, COEFFICIENTS, PROTOTYPES = "boxes", "mask_coefficients", "prototypes"
RATIOS = ("confidence", "nms_iou", "whole_iou")


@dataclass(frozen=True, kw_only=True)
class InstanceContract:
    """The calling rules of a segmenter.

    Attributes:
        batch: Number of images that the code passes to the graph: the same one in every slot.
        pad_value: Padding colour by channel.
        background: Label; None if the model has none.
        max_points: Maximum number of points of a prompt, a box counting as two; None if unlimited.
        score: Name of the output with the scores.
        stride: The border that boxes snap to lies a multiple of this inside the input.
        confidence, nms_iou, max_instances: Minimum score, maximum IoU with a better box, and
            maximum number of the kept boxes.
        border, whole_iou: Distance in pixels for snapping a side to the border, and IoU above which
            a box becomes the area inside the border.
        options: Target options: device, provider, threads and the like.
    """

    title: str
    fingerprint: str
    backend: str
    options: Mapping[str, str | int | float | bool]
    segmenter: Component
    image_size: Size
    batch: int
    pad_value: tuple[float, ...]
    foreground: int
    background: int | None
    max_points: int | None
    takes_box: bool
    takes_points_with_box: bool
    score: str
    threshold: float
    stride: int
    confidence: float
    nms_iou: float
    max_instances: int
    border: float
    whole_iou: float


def instance_contract_of(manifest: Mapping[str, Any]) -> InstanceContract:
    """Return the contract of a bundle of a segmenter.

    Args:
        manifest: A valid manifest.

    Raises:
        UsageError: The contract has unsupported rules or values, or lacks the constants.
    """
    if "instances" not in manifest["masks"]:
        raise UsageError(
            "the manifest has no `masks.instances`: an older effsam-export wrote the bundle",
            hint="export it again: the code needs these numbers",
        )
    reader = Reader(manifest=manifest)
    _check_image(reader)
    _check_prompts(reader)
    _check_masks(reader)
    segmenter = component_of(reader, manifest["components"][0])
    _check_tensors(reader, segmenter)
    reader.finish()
    return _filled(manifest, segmenter)


def _check_image(reader: Reader) -> None:
    pre = reader.manifest["preprocess"]
    reader.known("preprocess.family", pre["family"], rules.LETTERBOX)
    reader.known("preprocess.orientation", pre["orientation"], rules.ORIENTATION)
    reader.known("preprocess.colour", pre["colour"], "RGB")
    reader.known("preprocess.layout", pre["layout"], "NCHW")
    reader.known("preprocess.range", pre["range"], [0, 255])
    inside = pre["normalisation"]["inside_graph"]
    reader.known("preprocess.normalisation.inside_graph", inside, True)
    reader.size("preprocess.image_size", pre["image_size"], square=False)
    square = isinstance(pre["image_size"], int)
    resize, pad = pre["resize"], pre["pad"]
    rounding = rules.BOXED_ROUNDING if square else rules.BOXED_FITTING
    reader.known("preprocess.resize.rounding", resize["rounding"], rounding)
    reader.known("preprocess.resize.filter", resize["filter"], rules.BOXED_FILTER)
    longest = pre["image_size"] if square else None
    reader.known("preprocess.resize.longest_side", resize["longest_side"], longest)
    if pad is None:
        reader.problems.append("preprocess.pad is missing")
        return
    reader.known("preprocess.pad.sides", pad["sides"], rules.BOXED_SIDES)
    reader.finite("preprocess.pad.value", pad["value"])


def _check_prompts(reader: Reader) -> None:
    prompts = reader.manifest["prompts"]
    coordinates, labels, supports = prompts["coordinates"], prompts["labels"], prompts["supports"]
    reader.known("prompts.coordinates.order", coordinates["order"], "xy")
    reader.known("prompts.coordinates.frame", coordinates["frame"], rules.BOXED_FRAME)
    reader.known("prompts.host_rules", prompts["host_rules"], rules.INSTANCE_PROMPTS)
    reader.known("prompts.mask_input", prompts["mask_input"], None)
    reader.known("prompts.padding", prompts["padding"], None)
    reader.known("prompts.supports.mask", supports["mask"], False)
    reader.known("prompts.supports.slots", supports["slots"], None)
    # The contract has no rule for points together with a box.
    reader.known("prompts.supports.points_with_box", supports["points_with_box"], False)
    # The rules for points are about these two labels.
    reader.known("prompts.labels.foreground", labels["foreground"], 1)
    reader.known("prompts.labels.background", labels["background"], 0, None)
    negative = labels["background"] is not None
    reader.known("prompts.supports.negative_points", supports["negative_points"], negative)


def _check_masks(reader: Reader) -> None:
    masks = reader.manifest["masks"]
    numbers = masks["instances"]
    reader.known("masks.select", masks["select"], rules.INSTANCE_SELECTION)
    reader.known("masks.rule", masks["rule"], rules.MASK_RULE)
    reader.known("masks.single", masks["single"], [])
    reader.known("masks.multimask", masks["multimask"], [])
    square = isinstance(reader.manifest["preprocess"]["image_size"], int)
    wanted = rules.INSTANCE_RULES if square else rules.RECTANGLE_RULES
    reader.known("masks.instances.rules", numbers["rules"], wanted)
    reader.known("masks.resize", masks["resize"], rules.instance_masks(numbers))
    reader.finite("masks.threshold", [masks["threshold"]])
    reader.finite("masks.instances.border", [numbers["border"]])
    for name in RATIOS:
        if not 0 <= numbers[name] <= 1:
            reader.problems.append(f"masks.instances.{name} is {numbers[name]}")
    reader.side("masks.instances.stride", numbers["stride"])


def _check_tensors(reader: Reader, segmenter: Component) -> None:
    """Check that all tensors are known, with the shapes that follow from the manifest."""
    masks = reader.manifest["masks"]
    image = sides(from_document(reader.manifest["preprocess"]["image_size"]))
    low = sides(from_document(masks["low_res_size"]))
    # Any number of boxes and coefficients, but equal in all outputs.
    boxes = next((s[1] for n, s in segmenter.outputs.items() if n == BOXES and len(s) > 1), 0)
    parts = next((s[1] for n, s in segmenter.outputs.items() if n == PROTOTYPES and len(s) > 1), 0)
    batch = axis_of(reader.manifest)
    outputs = {
        BOXES: (batch, boxes, 4),
        masks["score"]: (batch, boxes),
        COEFFICIENTS: (batch, boxes, parts),
        PROTOTYPES: (batch, parts, *low),
    }
    for what, actual, expected in (
        ("inputs of the segmenter", segmenter.inputs, {ENCODER_INPUT: (batch, 3, *image)}),
        ("outputs of the segmenter", segmenter.outputs, outputs),
    ):
        dynamic = any(isinstance(v, str) for s in expected.values() for v in s[1:])
        if dict(actual) != expected or dynamic:
            reader.problems.append(f"{what} are `{short(shapes_of(actual))}`")
    reader.plain(masks["score"], segmenter.file, *segmenter.beside)


def _filled(manifest: Mapping[str, Any], segmenter: Component) -> InstanceContract:
    """Return the contract of a checked manifest."""
    pre, prompts, masks = manifest["preprocess"], manifest["prompts"], manifest["masks"]
    numbers, supports = masks["instances"], prompts["supports"]
    return InstanceContract(
        title=manifest["model"]["title"],
        fingerprint=fingerprint(manifest),
        backend=manifest["target"]["backend"],
        options=manifest["target"]["options"],
        segmenter=segmenter,
        image_size=from_document(pre["image_size"]),
        batch=filled_slots(manifest),
        pad_value=tuple(float(v) for v in pre["pad"]["value"]),
        foreground=int(prompts["labels"]["foreground"]),
        background=prompts["labels"]["background"],
        max_points=supports["max_points"],
        takes_box=supports["box"],
        takes_points_with_box=supports["points_with_box"],
        score=masks["score"],
        threshold=float(masks["threshold"]),
        stride=int(numbers["stride"]),
        confidence=float(numbers["confidence"]),
        nms_iou=float(numbers["nms_iou"]),
        max_instances=int(numbers["max_instances"]),
        border=float(numbers["border"]),
        whole_iou=float(numbers["whole_iou"]),
    )
