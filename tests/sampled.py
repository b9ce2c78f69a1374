"""Comparison with figures sampled in the way of the families other than SAM's own.

Each tensor is sampled twice: `K` at every step-th value, which mostly hits the first columns of a
map when the step is even, and `K.odd` at an odd step. Weights are made as for all figures, by
`tests/golden_weights.py`. Tolerances are absolute: what is compared has a deviation near 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.spec.prompts import Point, Prompt
from tests.golden_weights import generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from tests.golden_weights import Floats, Golden

MAX_DIFFERENCE = 5e-5
"""The authors' FP32 moves by 1e-5 when its input does by 1e-6; mistakes cost from 1e-4 upwards."""

SAMPLES = 4096


def samples(tensor: ArrayLike) -> dict[str, Floats]:
    """Both samplings by the suffix of their key."""
    flat = np.asarray(tensor, dtype=np.float32).reshape(-1)
    step = max(1, flat.size // SAMPLES)
    return {"": flat[::step], ".odd": flat[:: step + 1 if step % 2 == 0 else step + 2]}


def differences(golden: Golden, key: str, tensor: ArrayLike) -> Floats:
    """Every sampled difference from the figures at `key`, of both samplings where both are kept."""
    found = [
        values - golden.figures[key + suffix]
        for suffix, values in samples(tensor).items()
        if key + suffix in golden.figures
    ]
    assert found, key
    return np.abs(np.concatenate(found))


def assert_near(
    golden: Golden, key: str, tensor: ArrayLike, tolerance: float = MAX_DIFFERENCE
) -> None:
    """No sampled value is further away from the figures at `key`."""
    largest = float(differences(golden, key, tensor).max())
    assert largest <= tolerance, (key, largest)


def assert_score(found: ArrayLike, golden: Golden, key: str, tolerance: float) -> None:
    """Scores, which are kept in full, within the tolerance."""
    wanted = golden.figures[key]
    largest = float(np.abs(np.asarray(found).reshape(wanted.shape) - wanted).max())
    assert largest <= tolerance, (key, largest)


def prompt_of(entry: dict[str, Any]) -> Prompt:
    """A prompt of a manifest of SAM's relatives, in the pixels it is stated in."""
    points = zip(entry.get("points", ()), entry.get("labels", ()), strict=True)
    box = entry.get("box")
    mask = 4 * generator(11).standard_normal((1, 256, 256)).astype(np.float32)
    return Prompt(
        points=tuple(Point(x=x, y=y, label=label) for (x, y), label in points),
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        mask_input=mask[0] if "mask_input" in entry else None,
    )
