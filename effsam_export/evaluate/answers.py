"""The answers of one segmenter to the prompts of all objects of an image."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from effsam_export.evaluate import prompts
from effsam_export.evaluate.segmentations import decoded, encoded
from effsam_export.imaging.decode import read_image
from effsam_export.parity.metrics import mask_iou

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.evaluate.dataset import AnnotatedImage
    from effsam_export.evaluate.prompts import PromptKind
    from effsam_export.inference.runner import Prediction
    from effsam_export.spec.prompts import Prompt


class Segmenter(Protocol):
    """What segments images: a bundle's predictor, or the PyTorch model."""

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Encode an image uint8 HxWx3 RGB for its prompts."""
        ...

    def answer(self, prompt: Prompt, *, only_best: bool = False) -> Prediction:
        """Return the masks of one prompt, best score first; with `only_best` that mask alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The best-scoring mask for an object.

    Attributes:
        object: Index of the object in its image.
        prompt: Name of the kind of prompt.
        iou: IoU with the annotated mask.
        index: Position of the mask in the decoder's output.
        counts: COCO's compressed run lengths of the mask.
    """

    object: int
    prompt: str
    iou: float
    index: int
    counts: str


@dataclass(frozen=True, kw_only=True)
class ImageAnswers:
    """The answers for one image.

    Attributes:
        sha256: Of the image's file.
        seconds: Time of encoding, prompts and masks at original size.
    """

    sha256: str
    seconds: float
    answers: tuple[Answer, ...]

    def document(self) -> dict[str, Any]:
        """Return the answers for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> ImageAnswers:
        """Return the answers of a JSON document; KeyError or TypeError if it is another."""
        answers = tuple(Answer(**entry) for entry in document["answers"])
        return cls(sha256=document["sha256"], seconds=float(document["seconds"]), answers=answers)


def answers_of(
    segmenter: Segmenter,
    image: AnnotatedImage,
    sha256: str,
    kinds: Sequence[PromptKind],
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> ImageAnswers:
    """Ask for every object of an image, in every way.

    Args:
        segmenter: Segments the image.
        image: The image.
        sha256: Hash of its file.
        kinds: The ways to ask.
        seed: Of random points.
        clock: A monotonic clock, in seconds.

    Raises:
        ImageError: The image cannot be read.
        BundleError: The runtime of the bundle fails.
    """
    pixels = read_image(image.path).pixels
    start = clock()
    segmenter.set_image(pixels)
    seconds = clock() - start
    found = []

    def answer(prompt: Prompt) -> Prediction:
        nonlocal seconds
        start = clock()
        prediction = segmenter.answer(prompt, only_best=True)
        seconds += clock() - start
        return prediction

    for number, target in enumerate(image.objects):
        mask = decoded(target.mask)
        for kind in kinds:
            best = prompts.predict(kind, target, mask, seed, answer)
            found.append(
                Answer(
                    object=number,
                    prompt=kind.name,
                    iou=mask_iou(best.masks[0], mask),
                    index=best.indices[0],
                    counts=encoded(best.masks[0]),
                )
            )
    return ImageAnswers(sha256=sha256, seconds=seconds, answers=tuple(found))


def agreement(first: Answer, second: Answer, size: tuple[int, int]) -> float:
    """Return the IoU of two masks of (height, width); 1 if both are empty."""
    one, other = (decoded({"size": list(size), "counts": a.counts}) for a in (first, second))
    return mask_iou(one, other)
