"""Run-length encoding: round trips, and malformed input."""

from __future__ import annotations

import json

import numpy as np
import pytest

from effsam_export.errors import BundleError
from effsam_export.imaging import rle


@pytest.mark.parametrize("seed", range(60))
def test_round_trip_through_json(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 40, size=2)
    mask = rng.random(shape) < rng.choice([0.0, 0.02, 0.5, 0.98, 1.0])
    again = rle.decode(json.loads(json.dumps(rle.encode(mask))))
    assert again.dtype == np.bool_
    assert again.flags.c_contiguous
    np.testing.assert_array_equal(again, mask)


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_cocos(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 9, size=2)) < 0.5
    counts, value = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    assert rle.encode(mask) == {"size": list(mask.shape), "counts": counts}


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[False]], [1]),
        ([[True]], [0, 1]),
        ([[False] * 3] * 2, [6]),
        ([[True] * 3] * 2, [0, 6]),
        ([[False, True, True], [False, False, True]], [2, 1, 1, 2]),
        ([[True, True, False]], [0, 2, 1]),
    ],
)
def test_known_masks(mask: list[list[bool]], counts: list[int]) -> None:
    found = rle.encode(np.array(mask))
    assert found == {"size": [len(mask), len(mask[0])], "counts": counts}
    assert all(type(n) is int for n in found["counts"] + found["size"])


@pytest.mark.parametrize("seed", range(60))
def test_a_part_is_encoded_as_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 12, size=2))
    mask = np.zeros((height, width), dtype=np.bool_)
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    if seed % 3 == 0:
        y = 0  # Runs that go on in the next column need its first row.
    part = rng.random((height - y if seed % 2 else int(rng.integers(0, height - y + 1)), width - x))
    part = part < rng.choice([0.0, 0.5, 0.9, 1.0])
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    found = rle.encode_part(part, (x, y), (height, width))
    assert found == rle.encode(mask)
    assert all(type(n) is int for n in found["counts"] + found["size"])


def test_a_strided_view_is_encoded() -> None:
    mask = np.random.default_rng(0).random((12, 15)) < 0.5
    view = mask[::-2, 3:].T
    np.testing.assert_array_equal(rle.decode(rle.encode(view)), view)


def test_runs_of_zero_are_read() -> None:
    found = rle.decode({"size": [1, 3], "counts": [1, 0, 1, 1, 0]})
    assert found.tolist() == [[False, False, True]]


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (None, "not an object"),
        ([2, 3], "not an object"),
        ({"size": [2, 3]}, "not an object"),
        ({"size": 6, "counts": [6]}, "`size`"),
        ({"size": [6], "counts": [6]}, "`size`"),
        ({"size": [1, 2, 3], "counts": [6]}, "`size`"),
        ({"size": [0, 3], "counts": []}, "`size`"),
        ({"size": [-2, -3], "counts": [6]}, "`size`"),
        ({"size": [2.0, 3], "counts": [6]}, "`size`"),
        ({"size": [True, 3], "counts": [3]}, "`size`"),
        ({"size": [2, 3], "counts": "06"}, "`counts`"),
        ({"size": [2, 3], "counts": [3, None, 3]}, "`counts`"),
        ({"size": [2, 3], "counts": [5, True]}, "`counts`"),
        ({"size": [2, 3], "counts": [3.0, 3]}, "`counts`"),
        ({"size": [2, 3], "counts": [7, -1]}, "`counts`"),
        ({"size": [2, 3], "counts": []}, "counts of 0 pixels"),
        ({"size": [2, 3], "counts": [5]}, "counts of 5 pixels"),
        ({"size": [2, 3], "counts": [3, 4]}, "counts of 7 pixels"),
        ({"size": [2, 3], "counts": [2**63, 2**63, 6]}, "counts of 18446744073709551622 pixels"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "over the limit"),
    ],
)
def test_refuses(hostile: object, said: str) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        rle.decode(hostile)
    assert caught.value.hint
