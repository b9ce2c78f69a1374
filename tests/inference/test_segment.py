"""Several predictions as one."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export.inference.runner import Prediction
from effsam_export.inference.segment import best_of_each


def prediction(scores: list[float]) -> Prediction:
    k = len(scores)
    return Prediction(
        masks=np.arange(k * 12).reshape(k, 3, 4) % 5 == 0,
        scores=np.asarray(scores, np.float32),
        low_res_masks=np.full((k, 256, 256), scores[0], np.float32),
        indices=tuple(range(1, k + 1)),
    )


def test_best_of_each_keeps_order() -> None:
    joined = best_of_each([prediction([0.2, 0.1]), prediction([0.9])])
    assert joined.scores.tolist() == pytest.approx([0.2, 0.9])
    assert joined.masks.shape == (2, 3, 4)
    assert joined.indices == (1, 1)
