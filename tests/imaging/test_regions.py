"""Connected regions against a flood fill, and the removal of small ones."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export.imaging.regions import regions, without_small_holes, without_small_islands

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def flooded(mask: Mask) -> list[set[tuple[int, int]]]:
    """The regions of 8 neighbours by a flood fill, in the order of their first pixels."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        region, waiting = set(), [start]
        left.discard(start)
        while waiting:
            y, x = waiting.pop()
            region.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            waiting += near
        found.append(region)
    return found


def painted(parts: list[set[tuple[int, int]]], size: tuple[int, ...]) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    for part in parts:
        for pixel in part:
            mask[pixel] = True
    return mask


def random_mask(seed: int) -> Mask:
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 30, 2)
    return np.asarray(rng.random(size) < rng.choice([0.1, 0.3, 0.45, 0.6, 0.9]))


@pytest.mark.parametrize("seed", range(60))
def test_regions_are_those_of_a_flood_fill(seed: int) -> None:
    mask = random_mask(seed)
    found = regions(mask)
    size = (mask.shape[0], mask.shape[1])
    parts = flooded(mask)
    assert len(np.unique(found.labels)) == len(parts)
    for part, label in zip(parts, np.unique(found.labels), strict=True):
        chosen = found.labels == label
        assert np.array_equal(found.painted(chosen, size), painted([part], size))
        assert (found.areas()[chosen] == len(part)).all()


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("area", [2, 5, 40])
def test_small_regions_are_removed(seed: int, area: int) -> None:
    mask = random_mask(seed)
    holes = [part for part in flooded(~mask) if len(part) < area]
    filled, changed = without_small_holes(mask, area)
    assert np.array_equal(filled, mask | painted(holes, mask.shape))
    assert changed == bool(holes)
    islands = flooded(mask)
    large = [part for part in islands if len(part) >= area]
    kept, changed = without_small_islands(mask, area)
    # Of equally large ones, the first.
    wanted = large or sorted(islands, key=lambda part: -len(part))[:1]
    assert np.array_equal(kept, painted(wanted, mask.shape))
    assert changed == (len(large) < len(islands))


def test_a_spiral_is_one_region() -> None:
    """Its runs meet in an order that takes the merging many rounds."""
    size = 41
    mask = np.zeros((size, size), dtype=np.bool_)
    y, x, step, length = 0, 0, (0, 1), size - 1
    mask[0, 0] = True
    turns = 0
    while length > 0:
        for _ in range(length):
            y, x = y + step[0], x + step[1]
            mask[y, x] = True
        step = (step[1], -step[0])
        turns += 1
        if turns > 1 and turns % 2 == 1:
            length -= 2
    assert len(flooded(mask)) == 1
    assert len(np.unique(regions(mask).labels)) == 1
