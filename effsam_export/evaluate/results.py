"""Records of an evaluation, and its JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from effsam_export.evaluate.statistics import RESAMPLES

if TYPE_CHECKING:
    from effsam_export.evaluate.statistics import Interval
    from effsam_export.util.machine import Machine

Size = Literal["all", "small", "medium", "large"]
SIZES: tuple[Size, ...] = ("all", "small", "medium", "large")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of one object with one kind of prompt.

    Attributes:
        prompt: Name of the kind of prompt.
        image: Index of the image in the dataset.
        size: COCO's class of the object's area.
        iou: IoU of the best-scoring mask with the annotated one.
        reference_iou: The same of PyTorch's mask; None without a reference.
        agreement: IoU of both best-scoring masks; None without a reference.
        same_best: Whether both are the same output of the decoder; None without a reference, or for
            a model whose prompts give one mask.
    """

    prompt: str
    image: int
    size: Size
    iou: float
    reference_iou: float | None = None
    agreement: float | None = None
    same_best: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of one kind of prompt for the objects of one size.

    Attributes:
        objects: Number of objects; all other figures are means over them.
        miou: IoU of the best-scoring mask with the annotated mask.
        interval: Lower and upper limit of its 95 % bootstrap interval; None with objects of only
            one image.
        reference_miou: mIoU of PyTorch's masks; None without a reference, as all that follow.
        difference: mIoU less the reference's.
        difference_interval: As `interval`, of the difference.
        agreement: IoU of the bundle's best-scoring mask with PyTorch's.
        min_agreement: The smallest of these.
        best_mask_changes: Share of objects for which another mask of the decoder has the best
            score; None for a model whose prompts give one mask too.
    """

    prompt: str
    size: Size
    objects: int
    miou: float
    interval: Interval | None
    reference_miou: float | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    agreement: float | None = None
    min_agreement: float | None = None
    best_mask_changes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The PyTorch model beside a bundle.

    Attributes:
        file: Name of the weight file.
        sha256: Its hash.
        images_per_second: As in `Evaluated`.
    """

    file: str
    sha256: str
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The evaluation of one bundle.

    Attributes:
        bundle: Its path as it was given.
        runtime: Package and version of its runtime.
        simulator: What runs in place of its runtime; empty if that runtime ran.
        images_per_second: Number of images divided by the time of their encoding, prompts and
            masks; None on a simulator.
        reference: The PyTorch model; None without one.
        notes: Remarks on its figures, as sentences without a full stop.
        results: By kind of prompt, then by size.
        measurements: What the results are means of.
    """

    bundle: str
    model: str
    target: str
    precision: str
    runtime: str
    simulator: str
    images_per_second: float | None
    reference: Reference | None
    notes: tuple[str, ...]
    results: tuple[Result, ...]
    measurements: tuple[Measurement, ...]

    def document(self) -> dict[str, Any]:
        """Return the evaluation for JSON, without its measurements."""
        document = {key: value for key, value in asdict(self).items() if key != "measurements"}
        return {**document, "notes": list(self.notes)}


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotated images of an evaluation.

    Attributes:
        file: Name of the annotation file.
        sha256: Its hash.
        shipped: Whether it is the package's.
        images: Number of images that were evaluated.
        objects: Number of objects in them.
        crowds: Annotations of crowds in the whole file that were left out.
        empty: Annotations in the whole file that were left out because they have no pixel.
        limit: The maximum number of images that was asked for; None for all.
    """

    file: str
    sha256: str
    shipped: bool
    images: int
    objects: int
    crowds: int
    empty: int
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A whole evaluation.

    Attributes:
        prompts: Names of the kinds of prompts.
        seed: Of random points, of the choice of images and of the bootstrap.
    """

    annotations: Annotations
    prompts: tuple[str, ...]
    seed: int
    machine: Machine
    bundles: tuple[Evaluated, ...]

    def document(self) -> dict[str, Any]:
        """Return the evaluation for JSON."""
        return {
            "annotations": asdict(self.annotations),
            "prompts": list(self.prompts),
            "seed": self.seed,
            "resamples": RESAMPLES,
            "machine": asdict(self.machine),
            "miou": {
                bundle.bundle: {r.prompt: r.miou for r in bundle.results if r.size == "all"}
                for bundle in self.bundles
            },
            "bundles": [bundle.document() for bundle in self.bundles],
        }
