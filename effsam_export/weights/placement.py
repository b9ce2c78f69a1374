"""Place tensors in a model whose names lack the model's part, such as a decoder alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from effsam_export.weights.candidates import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from effsam_export.weights.read import Weights

BEGINNINGS = ("", "image_encoder.", "prompt_encoder.", "mask_decoder.")
"""What may be missing before the names of a file: nothing, or a part of the model."""
MAX_SPLITS = 16
"""Most components of a prefix."""


def placed(weights: Weights, expected: Iterable[str]) -> Mapping[str, Tensor]:
    """Return a file's tensors under the names of a model.

    Names that start with a part are the model's already. Others may lack it, and may have a prefix:
    `backbone.layers.0...` of an encoder is `image_encoder.layers.0...`.

    Args:
        weights: The file's tensors.
        expected: All names of the model.
    """
    state = weights.state
    if any(name.startswith(f"{part}.") for part in PARTS for name in state):
        return state
    place = most_frequent(state, frozenset(expected))
    if place is None:
        return state
    beginning, prefix = place
    return {f"{beginning}{n.removeprefix(prefix)}": value for n, value in state.items()}


def most_frequent(names: Iterable[str], expected: frozenset[str]) -> tuple[str, str] | None:
    """Return what to put before names, and the prefix to take off, for most expected names.

    None if no name becomes an expected one.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(min(len(parts), MAX_SPLITS)):
            own = ".".join(parts[start:])
            prefix = ".".join(parts[:start])
            for beginning in BEGINNINGS:
                if f"{beginning}{own}" in expected:
                    counts[beginning, f"{prefix}." if prefix else ""] += 1
    return counts.most_common(1)[0][0] if counts else None
