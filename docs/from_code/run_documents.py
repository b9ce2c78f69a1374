"""The `--json` documents of `effsam run`, key by key."""

from __future__ import annotations

IMAGE = {
    "file": "path of the image",
    "image.width": "pixels",
    "image.height": "pixels",
    "image.range": "the values of the file that became black and white",
    "image.notes": "how the file was read, if it is not a plain 8-bit one",
    "times.encode_ms": "time of the encoder in milliseconds; null if its embedding was given",
    "times.decode_ms": "time of all prompts of the image, in milliseconds",
}
SEGMENTATION = {
    "masks[].segmentation.size": "height and width of the mask",
    "masks[].segmentation.counts": "COCO's compressed run lengths",
}
PROMPTED = {
    **IMAGE,
    "masks[].prompt": "number of its prompt, from 1",
    "masks[].category": "category of its prompt; `object` where none is given",
    "masks[].index": "index in the graph's output",
    "masks[].score": "predicted score",
    "masks[].box": "left, top, right and bottom; null for an empty mask",
    "masks[].area": "number of pixels",
    **SEGMENTATION,
}
GENERATED = {
    **IMAGE,
    "masks[].score": "predicted score",
    "masks[].stability": "stability, or null",
    "masks[].box": "left, top, right and bottom",
    "masks[].area": "number of pixels",
    "masks[].point": "the point it was found with, or null",
    **SEGMENTATION,
}


def run_documents() -> dict[str, dict[str, str]]:
    """Return the keys of each document."""
    return {
        "run": PROMPTED,
        "run FOLDER": {
            **{f"images[].{key}": meaning for key, meaning in PROMPTED.items()},
            "failures": "a sentence for each image that cannot be read",
        },
        "run --everything": GENERATED,
    }
