"""Read the contract of a manifest into the values of the templates; refuse unsupported rules."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from effsam_export.errors import UsageError
from effsam_export.integrate import rules
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.spec import batches
from effsam_export.spec.sizes import from_document, sides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.sizes import Size

Padding = Literal["closing", "slots", "fill"]
"""A padding point after a prompt without a box; that and empty slots; points up to the maximum."""
Upscale = Literal["frame-bilinear", "bicubic"]

PLAIN = re.compile(r"[A-Za-z0-9._:/-]+")
"""Names that need no escaping in a string literal of any language."""
OPTION = re.compile(r"[A-Za-z0-9._:/, -]+")
"""Values of target options; Core ML's `functions` is a list of numbers."""
ENCODER_INPUT, EMBEDDINGS = "image", "image_embeddings"
COORDS, LABELS, MASK, HAS_MASK = "point_coords", "point_labels", "mask_input", "has_mask_input"
LOW_RES = "low_res_masks"
LARGEST_SIDE = 16_384
"""Pixels of an image or a mask; a larger side would exhaust the memory of the app."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """A graph.

    Attributes:
        file: The file that the runtime opens.
        beside: Files that must lie beside it.
        inputs, outputs: Tensor name -> shape.
    """

    file: str
    beside: tuple[str, ...]
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The calling rules of an encoder and a decoder.

    Attributes:
        picture: Whether the encoder takes an RGB image of bytes (Core ML's `image_input`).
        batch: Number of images that the code passes to the encoder: the same one in every slot.
        pad_value: Padding colour by channel; None without padding.
        background, empty: Labels; None if the model has none.
        room: Number of points in the input of a decoder with fixed shapes; None if dynamic.
        max_points: Maximum number of points of a prompt, a box counting as two; None if unlimited.
        score: Name of the output with the scores.
        options: Target options: device, provider, threads and the like.
    """

    title: str
    fingerprint: str
    backend: str
    options: Mapping[str, str | int | float | bool]
    encoder: Component
    decoder: Component
    family: str
    image_size: Size
    picture: bool
    batch: int
    pad_value: tuple[float, ...] | None
    prompt_size: Size
    foreground: int
    background: int | None
    box_top_left: int
    box_bottom_right: int
    padding: Padding
    padding_point: tuple[float, float]
    padding_label: int
    empty: int | None
    room: int | None
    max_points: int | None
    takes_box: bool
    takes_points_with_box: bool
    takes_mask: bool
    single: tuple[int, ...]
    multimask: tuple[int, ...]
    score: str
    threshold: float
    low_res_size: Size
    upscale: Upscale


@dataclass(kw_only=True)
class Reader:
    """Collects everything in a manifest that the templates do not support."""

    manifest: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)

    def known(self, what: str, actual: object, *supported: object) -> None:
        """Add a problem if a value is not one of the supported ones."""
        if actual not in supported:
            self.problems.append(f"{what} is `{short(actual)}`")

    def side(self, what: str, pixels: int) -> None:
        """Add a problem if a side is not between 1 and `LARGEST_SIDE`."""
        if not 1 <= pixels <= LARGEST_SIDE:
            self.problems.append(f"{what} is {pixels}")

    def size(self, what: str, value: int | list[int], *, square: bool) -> None:
        """Add a problem if a side of a size is too large, or if it has to be a square and is not.

        Args:
            what: The key in the manifest.
            value: A number, or [height, width].
            square: Whether a rectangle is not supported.
        """
        for side in sides(from_document(value)):
            self.side(what, side)
        if square and isinstance(value, list):
            self.problems.append(f"{what} is `{short(value)}`, not a square")

    def plain(self, *names: str) -> None:
        """Add a problem for each name that a string literal could not hold unescaped."""
        for name in names:
            if not PLAIN.fullmatch(name):
                self.problems.append(f"a name is `{short(name)}`")

    def finish(self) -> None:
        """Refuse the manifest if there is a problem.

        Raises:
            UsageError: With all problems.
        """
        for name, value in self.manifest["target"]["options"].items():
            if isinstance(value, str) and not OPTION.fullmatch(value):
                self.problems.append(f"target.options.{name} is `{short(value)}`")
        if self.problems:
            raise UsageError(
                f"this contract is not supported: {'; '.join(self.problems)}",
                hint="another version of effsam-export may support it",
            )

    def finite(self, what: str, values: list[float]) -> None:
        if not all(math.isfinite(v) for v in values):
            self.problems.append(f"{what} is not finite")


def finds_instances(manifest: Mapping[str, Any]) -> bool:
    """Return whether a bundle is a segmenter, which finds instances without a prompt (FastSAM)."""
    return [c["name"] for c in manifest["components"]] == ["segmenter"]


def contract_of(manifest: Mapping[str, Any]) -> Contract:
    """Return the contract of a bundle of an encoder and a decoder.

    Args:
        manifest: A valid manifest.

    Raises:
        UsageError: Another kind of bundle, or the contract has unsupported rules or values.
    """
    names = [c["name"] for c in manifest["components"]]
    if sorted(names) != ["decoder", "encoder"]:
        raise UsageError(
            f"the bundle holds only {' and '.join(names)}",
            hint="code needs a bundle of an encoder and a decoder: export --component all",
        )
    reader = Reader(manifest=manifest)
    _check_image(reader)
    _check_prompts(reader)
    _check_masks(reader)
    graphs = {c["name"]: component_of(reader, c) for c in manifest["components"]}
    _check_tensors(reader, graphs["encoder"], graphs["decoder"])
    reader.finish()
    return _filled(manifest, graphs["encoder"], graphs["decoder"])


def num_threads(options: Mapping[str, Any]) -> int:
    """Return the `num_threads` option of a LiteRT target; 1 by default.

    Raises:
        UsageError: The value is not a whole number.
    """
    threads = options.get("num_threads", 1)
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise UsageError(f"target.options.num_threads is `{threads}`, which is not a whole number")
    return threads


def _check_image(reader: Reader) -> None:
    pre = reader.manifest["preprocess"]
    family = pre["family"]
    reader.known("preprocess.family", family, *rules.FILTER)
    reader.known("preprocess.orientation", pre["orientation"], rules.ORIENTATION)
    reader.known("preprocess.colour", pre["colour"], "RGB")
    reader.known("preprocess.layout", pre["layout"], "NCHW")
    reader.known("preprocess.range", pre["range"], [0, 255])
    reader.known(
        "preprocess.normalisation.inside_graph", pre["normalisation"]["inside_graph"], True
    )
    square = isinstance(pre["image_size"], int)
    reader.size("preprocess.image_size", pre["image_size"], square=family == rules.SQUASH)
    if family not in rules.FILTER:
        return
    resize, pad = pre["resize"], pre["pad"]
    rounding = rules.ROUNDING[family] if square else rules.FITTING
    reader.known("preprocess.resize.rounding", resize["rounding"], rounding)
    reader.known("preprocess.resize.filter", resize["filter"], rules.FILTER[family])
    if family == rules.SQUASH:
        reader.known("preprocess.resize.longest_side", resize["longest_side"], None)
        reader.known("preprocess.pad", pad, None)
        return
    longest = pre["image_size"] if square else None
    reader.known("preprocess.resize.longest_side", resize["longest_side"], longest)
    if pad is None:
        reader.problems.append("preprocess.pad is missing")
        return
    reader.known("preprocess.pad.sides", pad["sides"], rules.PAD_SIDES)
    reader.finite("preprocess.pad.value", pad["value"])


def _check_prompts(reader: Reader) -> None:
    prompts, pre = reader.manifest["prompts"], reader.manifest["preprocess"]
    coordinates, labels, supports = prompts["coordinates"], prompts["labels"], prompts["supports"]
    reader.known("prompts.coordinates.order", coordinates["order"], "xy")
    reader.known(
        "prompts.coordinates.pixel_centre", coordinates["pixel_centre"], rules.PIXEL_CENTRE
    )
    reader.size(
        "prompts.coordinates.size", coordinates["size"], square=pre["family"] == rules.SQUASH
    )
    wanted = rules.frame(pre["family"], pre["image_size"], coordinates["size"])
    reader.known("prompts.coordinates.frame", coordinates["frame"], wanted)
    reader.known("prompts.order", prompts["order"], rules.ORDER)
    reader.known("prompts.batch", prompts["batch"], *rules.BATCH)
    reader.known("prompts.host_rules", prompts["host_rules"], [])
    reader.known("prompts.mask_input", prompts["mask_input"], rules.MASK_INPUT, None)
    reader.known("prompts.supports.mask", supports["mask"], prompts["mask_input"] is not None)
    negative = labels["background"] is not None
    reader.known("prompts.supports.negative_points", supports["negative_points"], negative)
    slots, most, padding = supports["slots"], supports["max_points"], prompts["padding"]
    if (labels["empty"] is None) != (slots is None):
        reader.problems.append(f"prompts.labels.empty is {labels['empty']} with {slots} slots")
    if padding is None:
        reader.problems.append("prompts.padding is missing")
        return
    texts = [rules.closing(slots, labels["empty"])]
    if slots is not None:
        # One slot is reserved for the padding point.
        reader.known("prompts.supports.max_points", most, slots - 1)
    elif most is not None:
        texts = [rules.filling(most)]
    reader.known("prompts.padding.when", padding["when"], *texts)
    reader.known("prompts.padding.label", padding["label"], labels["padding"])
    reader.finite("prompts.padding.coordinates", padding["coordinates"])


def _check_masks(reader: Reader) -> None:
    masks = reader.manifest["masks"]
    size = from_document(reader.manifest["prompts"]["coordinates"]["size"])
    reader.known("masks.select", masks["select"], rules.selection(masks["score"]))
    reader.known("masks.rule", masks["rule"], rules.MASK_RULE)
    reader.known("masks.resize", masks["resize"], rules.through_frame(size), rules.BICUBIC)
    reader.finite("masks.threshold", [masks["threshold"]])
    reader.size("masks.low_res_size", masks["low_res_size"], square=False)
    if not masks["multimask"]:
        reader.problems.append("masks.multimask is empty")
    if len(masks["single"]) > 1:
        reader.problems.append(f"masks.single is `{masks['single']}`")


def component_of(reader: Reader, entry: Mapping[str, Any]) -> Component:
    name = entry["name"]
    for tensor in [*entry["inputs"], *entry["outputs"]]:
        picture = tensor["name"] == ENCODER_INPUT and takes_picture(reader.manifest)
        dtype = "uint8" if picture else "float32"
        reader.known(f"the type of {name} tensor {tensor['name']}", tensor["dtype"], dtype)
    shapes = [{t["name"]: tuple(t["shape"]) for t in entry[k]} for k in ("inputs", "outputs")]
    file, *beside = entry["files"]
    return Component(file=file, beside=tuple(beside), inputs=shapes[0], outputs=shapes[1])


def _check_tensors(reader: Reader, encoder: Component, decoder: Component) -> None:
    """Check that all tensors are known, with the shapes that follow from the manifest."""
    prompts, masks = reader.manifest["prompts"], reader.manifest["masks"]
    image = sides(from_document(reader.manifest["preprocess"]["image_size"]))
    low, supports = sides(from_document(masks["low_res_size"])), prompts["supports"]
    # Without empty slots the input has `max_points` points, or is dynamic.
    room = supports["slots"] or supports["max_points"] or "points"
    many: int | str = next((s[0] for s in decoder.outputs.values() if s), "prompts")
    reader.known("the number of prompts in a call", many, "prompts", 1)
    count = next((s[1] for n, s in decoder.outputs.items() if n == LOW_RES and len(s) > 1), 0)
    batch = axis_of(reader.manifest)
    one = encoder.outputs.get(EMBEDDINGS, ())[1:]
    if any(isinstance(s, str) for s in one):
        reader.problems.append(f"{EMBEDDINGS} has no fixed shape")
    with_mask = {MASK: (many, 1, *low), HAS_MASK: (many,)} if supports["mask"] else {}
    tensor: tuple[int | str, ...] = (batch, 3, *image)
    if takes_picture(reader.manifest):
        reader.known("the number of pictures in a call", batch, 1)
        tensor = (*image, 3)
    for what, actual, expected in (
        ("inputs of the encoder", encoder.inputs, {ENCODER_INPUT: tensor}),
        ("outputs of the encoder", encoder.outputs, {EMBEDDINGS: (batch, *one)}),
        (
            "inputs of the decoder",
            decoder.inputs,
            {EMBEDDINGS: (1, *one), COORDS: (many, room, 2), LABELS: (many, room), **with_mask},
        ),
        (
            # The code ignores further outputs of a decoder.
            "outputs of the decoder",
            {n: s for n, s in decoder.outputs.items() if n in (LOW_RES, masks["score"])},
            {LOW_RES: (many, count, *low), masks["score"]: (many, count)},
        ),
    ):
        if dict(actual) != expected:
            reader.problems.append(f"{what} are `{short(shapes_of(actual))}`")
    reader.plain(masks["score"], encoder.file, decoder.file, *encoder.beside, *decoder.beside)
    if not isinstance(count, int):
        reader.problems.append(f"{LOW_RES} has no fixed number of masks")
        return
    beyond = [i for i in [*masks["single"], *masks["multimask"]] if i >= count]
    if beyond:
        reader.problems.append(f"masks {beyond} are not among the {count} of {LOW_RES}")


def _filled(manifest: Mapping[str, Any], encoder: Component, decoder: Component) -> Contract:
    """Return the contract of a checked manifest."""
    pre, prompts, masks = manifest["preprocess"], manifest["prompts"], manifest["masks"]
    labels, supports, padding = prompts["labels"], prompts["supports"], prompts["padding"]
    slots, most = supports["slots"], supports["max_points"]
    x, y = padding["coordinates"]
    return Contract(
        title=manifest["model"]["title"],
        fingerprint=fingerprint(manifest),
        backend=manifest["target"]["backend"],
        options=manifest["target"]["options"],
        encoder=encoder,
        decoder=decoder,
        family=pre["family"],
        image_size=from_document(pre["image_size"]),
        picture=takes_picture(manifest),
        batch=filled_slots(manifest),
        pad_value=None if pre["pad"] is None else tuple(float(v) for v in pre["pad"]["value"]),
        prompt_size=from_document(prompts["coordinates"]["size"]),
        foreground=int(labels["foreground"]),
        background=labels["background"],
        box_top_left=int(labels["box_top_left"]),
        box_bottom_right=int(labels["box_bottom_right"]),
        padding="slots" if slots is not None else "fill" if most is not None else "closing",
        padding_point=(float(x), float(y)),
        padding_label=int(padding["label"]),
        empty=labels["empty"],
        room=slots or most,
        max_points=most,
        takes_box=supports["box"],
        takes_points_with_box=supports["points_with_box"],
        takes_mask=supports["mask"],
        single=tuple(masks["single"]),
        multimask=tuple(masks["multimask"]),
        score=masks["score"],
        threshold=float(masks["threshold"]),
        low_res_size=from_document(masks["low_res_size"]),
        upscale="bicubic" if masks["resize"] == rules.BICUBIC else "frame-bilinear",
    )


def takes_picture(manifest: Mapping[str, Any]) -> bool:
    """Return whether Core ML's option `image_input` made the encoder's input an image."""
    target = manifest["target"]
    return target["backend"] == "coreml" and target["options"].get("image_input") is True


def axis_of(manifest: Mapping[str, Any]) -> int | str:
    """Return the first axis of the tensors of images: a number, or its name if it is dynamic."""
    return batches.from_document(manifest["preprocess"].get("batch", 1))


def filled_slots(manifest: Mapping[str, Any]) -> int:
    """Return in how many slots the code puts the image: all of them, or one of a dynamic batch."""
    batch = axis_of(manifest)
    return batch if isinstance(batch, int) else 1


def shapes_of(tensors: Mapping[str, tuple[int | str, ...]]) -> str:
    return ", ".join(f"{n} {list(s)}" for n, s in tensors.items())


def short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 90 else f"{text[:87]}..."
