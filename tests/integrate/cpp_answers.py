"""What the generated C++ finds on a photograph, and the reference's masks to hold it to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.integrate.tools import run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.imaging.instances import Instances
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.tensors import Float32

CODE = Path(__file__).parent / "cpp_instances"
"""A program around the generated library, and a graph that gives what is in files."""
DETAILS = ("boxes", "scores", "coefficients", "prototypes")
RESIZES = 20
"""Roundings of float while logits become as large as the photograph, for both of two masks."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a program wrote: instances, and the masks and scores that it was asked for."""

    boxes: Float32
    scores: Float32
    coefficients: Float32
    prototypes: Float32
    masks: NDArray[np.bool_]
    mask_scores: Float32


def answers_of(program: Path, bundle: Path, image: NDArray[np.uint8], *asked: object) -> Answers:
    """Find on a photograph; `asked` are a `mask` and its index, `everything`, or prompts."""
    folder, (height, width, _) = program.parent, image.shape
    (folder / "in.bin").write_bytes(image.tobytes())
    done = run([str(program), *map(str, (bundle, height, width, *asked))], folder)
    if done.returncode:
        raise ValueError(done.stderr)
    count, c, h, w = np.fromfile(folder / "numbers.bin", np.float32, 4).astype(int)
    numbers = np.fromfile(folder / "numbers.bin", np.float32)[4:]
    ends = np.cumsum([count * 4, count, count * c, c * h * w])
    boxes, scores, coefficients, prototypes, mask_scores = np.split(numbers, ends)
    return Answers(
        boxes=boxes.reshape(-1, 4),
        scores=scores,
        coefficients=coefficients.reshape(-1, c),
        prototypes=prototypes.reshape(c, h, w),
        masks=np.fromfile(folder / "masks.bin", np.bool_).reshape(-1, height, width),
        mask_scores=mask_scores,
    )


def asked_by(prompt: Prompt) -> list[object]:
    points = [n for p in prompt.points for n in (p.x, p.y, p.label)]
    return ["prompt", len(prompt.points), *points, *(["box", *prompt.box] if prompt.box else "-")]


def in_double(found: Instances) -> Instances:
    """The reference's, with its products added up in double."""
    coefficients, prototypes = np.float64(found.coefficients), np.float64(found.prototypes)
    return replace(found, coefficients=coefficients, prototypes=prototypes)


def raised(found: Instances, by: float) -> Instances:
    """With every logit greater by so much."""
    ones = np.ones_like(found.prototypes[:1])
    more = np.full((len(found), 1), by, np.float32)
    return replace(
        found,
        coefficients=np.concatenate([found.coefficients, more], axis=1),
        prototypes=np.concatenate([found.prototypes, ones]),
    )


def rounding(found: Instances, index: int) -> float:
    """How far a logit can be from what it is with sums in double, which are rounded once.

    Of C products a sum in float is off by C / 2^24 of the sum of their magnitudes at most, in any
    order (Higham, Accuracy and Stability of Numerical Algorithms, 3.1).
    """
    coefficients = np.abs(found.coefficients[index])
    magnitude = np.tensordot(coefficients, np.abs(found.prototypes), axes=1).max()
    return float((len(coefficients) + 1 + RESIZES) / 2**24 * magnitude)


def check_mask(mask: NDArray[np.bool_], wanted: Instances, index: int) -> None:
    """That of sums in double, to the bit; numpy's own, but for logits next to the threshold."""
    assert np.array_equal(mask, in_double(wanted).mask(index))
    near = rounding(wanted, index)
    assert not (raised(wanted, -near).mask(index) & ~mask).any()
    assert not (mask & ~raised(wanted, near).mask(index)).any()
