"""The rules of a manifest that the templates implement, word for word.

These are copies and not imports: where the sentence in a manifest is another one, so is what a
caller has to do, and code for the old sentence must not be written.
"""

from __future__ import annotations

ORIENTATION = "apply the EXIF rotation first"
PIXEL_CENTRE = "0.5 is added inside the graph; do not add it"
ORDER = ["points", "box_top_left", "box_bottom_right"]
PAD_SIDES = ["bottom", "right"]
MASK_INPUT = "low_res_masks of an earlier answer, unchanged; zeros if there is none"
BATCH = (
    "prompts with equally many points can share one call",
    "one prompt a call",
)
"""Both allow what the generated code does: one prompt a call."""
MASK_RULE = "a pixel is in the mask where its logit is greater than the threshold"

LONGEST_SIDE = "longest-side-pad"
SQUASH = "squash"

ROUNDING = {
    LONGEST_SIDE: "int(side * longest_side / max(height, width) + 0.5)",
    SQUASH: "both sides become image_size, the aspect ratio is not kept",
}
FILTER = {
    LONGEST_SIDE: "bilinear, antialiased when shrinking (Pillow's BILINEAR on uint8)",
    SQUASH: "bilinear, half-pixel centres, no antialiasing, on float32",
}

BICUBIC = [
    "bicubic (a = -0.75, half-pixel centres, no antialiasing) straight to the original height and "
    "width"
]


def frame(family: str, image_size: int, prompt_size: int) -> str:
    """The frame that prompts are in, as the manifest has to word it."""
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
    """When a padding point is added, for a decoder that takes any number of points or slots."""
    point = "the prompt has no box: one point more, after the others"
    if slots is None:
        return point
    return f"{point}; then empty slots at (0, 0) with label {empty}, up to {slots}"


def filling(most: int) -> str:
    """When padding points are added, for a decoder whose every place is a point."""
    return f"a prompt has fewer than {most} points: up to that many"


def selection(score: str) -> str:
    """Which mask is the answer."""
    return f"of the multimask set, the mask with the greatest {score}"


def through_frame(prompt_size: int) -> list[str]:
    """How logits come back through the prompts' frame."""
    return [
        f"bilinear to {prompt_size} x {prompt_size} (half-pixel centres, no antialiasing)",
        "cut to the height and width of the photograph in the prompts' frame",
        "bilinear to the original height and width",
    ]
