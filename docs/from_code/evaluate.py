"""Keys of the document of `effsam eval`."""

from __future__ import annotations

from docs.from_code.bench import MACHINE
from docs.from_code.keys import Keys, of, under
from effsam_export.evaluate.results import Annotations, Reference, Result
from effsam_export.util.machine import Machine

ANNOTATIONS: Keys = {
    "file": "name of the annotation file",
    "sha256": "its hash",
    "shipped": "whether it is the package's",
    "images": "number of images that were evaluated",
    "objects": "number of objects in them",
    "crowds": "annotations of crowds in the whole file that were left out",
    "empty": "annotations in the whole file that were left out because they have no pixel",
    "limit": "maximum number of images that was asked for, or null",
}
BUNDLE: Keys = {
    "bundle": "the bundle, as it was given",
    "model": "model",
    "target": "target",
    "precision": "precision",
    "runtime": "package and version of its runtime",
    "simulator": "what ran in place of the runtime; empty if the runtime ran",
    "images_per_second": "images divided by the time of their encoding, prompts and masks; null on "
    "a simulator",
    "reference": "the PyTorch model beside it, or null",
    "notes": "remarks on its figures, in words",
}
REFERENCE: Keys = {
    "file": "name of its weight file",
    "sha256": "its hash",
    "images_per_second": "as of the bundle",
}
RESULT: Keys = {
    "prompt": "kind of prompt",
    "size": "`all`, `small`, `medium` or `large`; a size without objects is left out",
    "objects": "number of objects",
    "miou": "mean IoU of the best-scoring masks with the annotated masks",
    "interval": "limits of its 95 % bootstrap interval; null with objects of only one image",
    "reference_miou": "mIoU of PyTorch's masks; null without a reference, as all that follow",
    "difference": "`miou` less `reference_miou`",
    "difference_interval": "limits of its 95 % bootstrap interval",
    "agreement": "mean IoU of the best-scoring masks with PyTorch's",
    "min_agreement": "the smallest of these IoUs",
    "best_mask_changes": "share of objects for which another mask of the decoder has the best "
    "score; null too if a prompt gives one mask",
}


def document() -> Keys:
    """Return the keys without `schema_version`."""
    return {
        **of(Annotations, ANNOTATIONS, "annotations."),
        "prompts": "kinds of prompts",
        "seed": "seed of random points, of the choice of images and of the intervals",
        "resamples": "bootstrap draws of an interval",
        **of(Machine, MACHINE, "machine."),
        "miou.NAME": "mIoU over all objects of a bundle, by its path as it was given and then by "
        "kind of prompt",
        **under("bundles[].", BUNDLE),
        **of(Reference, REFERENCE, "bundles[].reference."),
        **of(Result, RESULT, "bundles[].results[]."),
    }
