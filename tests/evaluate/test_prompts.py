"""The prompts of an evaluation, and the innermost pixel of a mask."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export import models
from effsam_export.errors import UsageError
from effsam_export.evaluate import prompts
from effsam_export.evaluate.dataset import AnnotatedObject
from effsam_export.evaluate.innermost import innermost
from effsam_export.evaluate.prompts import PromptKind, parse_kinds
from effsam_export.spec.prompts import Point, Prompt
from tests.evaluate.annotated import Given, mask_of

BOX, POINT, THREE, CLICKS = parse_kinds("box,point,3points,3clicks")


def target(number: int = 1) -> AnnotatedObject:
    return AnnotatedObject(id=number, mask={}, area=1.0, box=(1, 2, 30.5, 40))


def brute(mask: np.ndarray, without: list[tuple[int, int]]) -> tuple[int, tuple[int, int]]:
    """The same by comparing all pairs of pixels."""
    padded = np.pad(mask, 1)
    off = np.argwhere(~padded) - 1
    best = (0, (0, 0))
    for row, column in np.argwhere(mask).tolist():
        square = int(((off - (row, column)) ** 2).sum(axis=1).min())
        if square > best[0] and (row, column) not in without:
            best = (square, (row, column))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_the_innermost_pixel_is_that_of_all_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = np.zeros((23, 31), np.bool_)
    for _ in range(1 + seed % 3):
        x, y = generator.integers(0, 25), generator.integers(0, 18)
        mask[y : y + generator.integers(1, 12), x : x + generator.integers(1, 20)] = True
    mask &= generator.random(mask.shape) < (0.98 if seed % 2 else 1)
    without: list[tuple[int, int]] = []
    for _ in range(3):
        found = innermost(mask, without)
        assert found == brute(mask, without)
        without.append(found[1])


def test_the_innermost_pixel_of_simple_shapes() -> None:
    # The border of the image is an outline, and of equal pixels the first one counts.
    assert innermost(np.ones((7, 9), np.bool_)) == (16, (3, 3))
    assert innermost(np.zeros((7, 9), np.bool_)) == (0, (0, 0))
    one = np.zeros((7, 9), np.bool_)
    one[6, 8] = True
    assert innermost(one) == (1, (6, 8))
    assert innermost(one, [(6, 8)]) == (0, (0, 0))
    y, x = np.mgrid[:101, :121]
    assert innermost((x - 70) ** 2 + (y - 40) ** 2 <= 30**2) == (26**2 + 15**2, (40, 70))


def test_kinds_are_parsed() -> None:
    assert parse_kinds("box,point,3points,3clicks") == (
        PromptKind(name="box", form="box"),
        PromptKind(name="point", form="points", count=1),
        PromptKind(name="3points", form="points", count=3),
        PromptKind(name="3clicks", form="clicks", count=3),
    )
    assert parse_kinds(" box, box") == (BOX,)
    with pytest.raises(UsageError) as failed:
        parse_kinds("boxes,point,1points,10clicks")
    for wrong in ("boxes", "1points", "10clicks"):
        assert f"unknown kind of prompt `{wrong}`" in failed.value.message
    with pytest.raises(UsageError):
        parse_kinds("")


def test_what_models_do_not_support() -> None:
    efficient, fast = models.get("efficient-sam-ti").prompts, models.get("fast-sam-s").prompts
    assert "no background points" in CLICKS.fault(efficient)
    many = PromptKind(name="9points", form="points", count=9)
    assert "this model takes 6 points, not 9" in many.fault(efficient)
    assert not any(kind.fault(fast) for kind in (BOX, POINT, THREE, CLICKS))
    assert not any(kind.fault(efficient) for kind in (BOX, POINT, THREE))


def test_a_box_and_a_centre_point() -> None:
    mask = mask_of(10, 20, 31, 11)
    given = Given([mask, mask])
    prompts.predict(BOX, target(), mask, 0, lambda p: given.answer(p, only_best=True))
    prompts.predict(POINT, target(), mask, 0, lambda p: given.answer(p, only_best=True))
    # Of the middle row, the first pixel that is as far from the top as from the left.
    assert given.prompts == [
        Prompt(box=(1, 2, 30.5, 40)),
        Prompt(points=(Point(x=15, y=25),)),
    ]


def test_random_points_lie_on_the_mask_and_follow_the_seed() -> None:
    mask = mask_of(10, 20, 5, 4) | mask_of(100, 70, 3, 3)

    def asked(seed: int, number: int) -> tuple[Point, ...]:
        given = Given([mask])
        prompts.predict(
            THREE, target(number), mask, seed, lambda p: given.answer(p, only_best=True)
        )
        return given.prompts[0].points

    points = asked(0, 1)
    assert len({(p.x, p.y) for p in points}) == 3
    assert all(mask[int(p.y), int(p.x)] and p.label == 1 for p in points)
    assert asked(0, 1) == points
    assert asked(1, 1) != points
    assert asked(0, 2) != points
    # All pixels are drawn, and about equally often.
    counts = np.zeros(mask.shape, int)
    for number in range(3000):
        for p in prompts.random_points(mask, 3, str(number)):
            counts[int(p.y), int(p.x)] += 1
    assert counts[~mask].sum() == 0
    assert counts[mask].min() > 0.7 * counts[mask].mean()
    two = mask_of(0, 0, 2, 1)
    assert len(prompts.random_points(two, 3, "0")) == 2


def test_clicks_follow_the_larger_error() -> None:
    mask = mask_of(10, 20, 31, 11)
    # First the right part is missing; then a square is too much, which is wider than the rest.
    first = mask_of(10, 20, 20, 11)
    second = mask_of(10, 20, 28, 11) | mask_of(80, 50, 9, 9)
    given = Given([first, second, mask])
    found = prompts.predict(CLICKS, target(), mask, 0, lambda p: given.answer(p, only_best=True))
    clicks = [p.points for p in given.prompts]
    assert clicks[0] == (Point(x=15, y=25),)
    assert clicks[1] == (*clicks[0], Point(x=35, y=25))
    assert clicks[2] == (*clicks[1], Point(x=84, y=54, label=0))
    np.testing.assert_array_equal(found.masks[0], mask)
