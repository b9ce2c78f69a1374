"""Overlays: positions of masks and markers, and atomic image files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export.errors import OutputError
from effsam_export.imaging import overlay

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GREY = 128


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def empty(height: int, width: int) -> NDArray[np.bool_]:
    return np.zeros((height, width), dtype=np.bool_)


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    moved: NDArray[np.bool_] = (before != after).any(axis=2)
    return moved


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 60), (600, 900), (1, 700), (700, 2)])
def test_keeps_shape_and_input(size: tuple[int, int]) -> None:
    image, mask = grey(*size), empty(*size)
    mask[: size[0] // 2 + 1] = True
    drawn = overlay.draw(image, mask, points=[(0, 0, 1)], boxes=[(0, 0, *size[::-1])])
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == GREY).all()


def test_an_empty_mask_without_prompts_changes_nothing() -> None:
    image = grey(30, 40)
    assert (overlay.draw(image, empty(30, 40)) == image).all()


@pytest.mark.parametrize("longest", [40, 400, 1600])
def test_mask_is_tinted_and_outlined(longest: int) -> None:
    image, mask = grey(longest, longest), empty(longest, longest)
    near, far = longest // 4, longest * 3 // 4
    mask[near:far, near:far] = True
    drawn = overlay.draw(image, mask).astype(int)
    line = math.ceil(longest / 350)
    assert (drawn[near : near + line, near:far] == overlay.WHITE).all()
    assert (drawn[near - 1, near:far] < GREY).all()
    red, _, blue = drawn[longest // 2, longest // 2]
    assert red < GREY < blue
    assert (drawn[: near // 2] == GREY).all()


def test_the_image_shows_through_the_mask() -> None:
    image = grey(100, 100)
    image[50, 50] = 0
    image[50, 52] = 255
    drawn = overlay.draw(image, ~empty(100, 100)).astype(int)
    dark, light = drawn[50, 50], drawn[50, 52]
    assert (dark < drawn[50, 51]).all()
    assert (light > drawn[50, 51]).all()
    # 60% of the image and 40% of the tint.
    assert np.abs(dark - 0.4 * np.asarray(overlay.BLUE)).max() <= 1


def test_the_outline_follows_single_pixels_and_thin_lines() -> None:
    mask = empty(350, 700)
    mask[100, 200] = True
    mask[50, 10:90] = True
    drawn = overlay.draw(grey(350, 700), mask)
    white = (drawn == overlay.WHITE).all(axis=2)
    assert (white == mask).all()
    assert (drawn[99:102, 199].astype(int) < GREY).all()


def test_a_mask_of_the_whole_image_has_an_outline() -> None:
    drawn = overlay.draw(grey(50, 70), ~empty(50, 70))
    assert (drawn[0] == overlay.WHITE).all()
    assert (drawn[:, -1] == overlay.WHITE).all()


@pytest.mark.parametrize(("label", "colour"), [(1, overlay.GREEN), (0, overlay.RED)])
def test_point_in_its_colour_with_a_white_ring(label: int, colour: tuple[int, int, int]) -> None:
    image = grey(200, 300)
    drawn = overlay.draw(image, empty(200, 300), points=[(120, 50, label)])
    assert tuple(drawn[50, 120]) == colour
    assert (drawn == overlay.WHITE).all(axis=2).any()
    rows, columns = np.nonzero(changed(image, drawn))
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (100, 240)


def test_markers_and_lines_scale_with_the_image() -> None:
    areas = []
    for scale in (1, 4):
        size = (300 * scale, 400 * scale)
        image = grey(*size)
        drawn = overlay.draw(image, empty(*size), points=[(200 * scale, 150 * scale, 1)])
        areas.append(np.count_nonzero(changed(image, drawn)))
    assert areas[1] == pytest.approx(16 * areas[0], rel=0.3)


@pytest.mark.parametrize("at", [(0, 0), (299, 0), (-4, 100), (1e9, 50), (150, -1e9)])
def test_points_at_and_over_the_edge_are_cut_off(at: tuple[float, float]) -> None:
    drawn = overlay.draw(grey(200, 300), empty(200, 300), points=[(*at, 1)])
    assert drawn.shape == (200, 300, 3)


def test_box_is_outlined_and_not_filled() -> None:
    drawn = overlay.draw(grey(200, 300), empty(200, 300), boxes=[(50, 40, 250, 160)])
    yellow = (drawn == overlay.YELLOW).all(axis=2)
    assert yellow[40, 50:250].all()
    assert yellow[160, 50:250].all()
    assert yellow[40:160, 50].all()
    assert yellow[40:160, 250].all()
    assert (drawn[50:150, 60:240] == GREY).all()


@pytest.mark.parametrize("box", [(-50, -9, 300, 200), (-math.inf, -math.inf, math.inf, math.inf)])
def test_box_over_the_edge_is_drawn_on_it(box: tuple[float, float, float, float]) -> None:
    drawn = overlay.draw(grey(200, 300), empty(200, 300), boxes=[box])
    yellow = (drawn == overlay.YELLOW).all(axis=2)
    assert yellow[0].all()
    assert yellow[-1].all()
    assert yellow[:, 0].all()
    assert yellow[:, -1].all()


def test_disagreement_shows_a_single_pixel_of_a_large_mask() -> None:
    reference, found = empty(1000, 1500), empty(1000, 1500)
    reference[500, 700] = True
    found[10, 20] = True
    panel = overlay.disagreement(grey(100, 150), reference, found)
    assert tuple(panel[50, 70]) == overlay.ONLY_REFERENCE
    assert tuple(panel[1, 2]) == overlay.ONLY_ARTIFACT
    coloured = (panel != panel[:, :, :1]).any(axis=2)
    assert np.count_nonzero(coloured) == 2


def test_disagreement_is_lighter_where_both_masks_are() -> None:
    both = empty(40, 60)
    both[:20] = True
    panel = overlay.disagreement(grey(40, 60), both, both)
    assert (panel[:20] > panel[20:]).all()


@pytest.mark.parametrize("size", [(7, 11), (50, 33), (1, 1), (60, 90)])
def test_shrink_keeps_small_masks(size: tuple[int, int]) -> None:
    mask = empty(60, 90)
    assert not overlay.shrink(mask, size).any()
    assert overlay.shrink(~mask, size).all()
    mask[33, 44] = True
    assert np.count_nonzero(overlay.shrink(mask, size)) == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "PNG"), ("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.JPeg", "JPEG")],
)
def test_saves_by_suffix(tmp_path: Path, name: str, kind: str) -> None:
    image = grey(20, 30)
    overlay.save(image, tmp_path / name)
    with Image.open(tmp_path / name) as again:
        assert again.format == kind
        np.testing.assert_allclose(np.asarray(again), image, atol=2)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_replaces_a_file_and_keeps_the_usual_mode(tmp_path: Path) -> None:
    path, usual = tmp_path / "a.png", tmp_path / "usual"
    path.write_bytes(b"old")
    usual.touch()
    overlay.save(grey(4, 4), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt", ".png"])
def test_refuses_an_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="format") as caught:
        overlay.save(grey(4, 4), tmp_path / name)
    assert caught.value.hint is not None
    assert ".png, .jpg, .jpeg" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    for path in (tmp_path / "taken.png", tmp_path / "missing" / "a.png"):
        with pytest.raises(OutputError, match=r"cannot write|is not a file") as caught:
            overlay.save(grey(4, 4), path)
        assert caught.value.hint
    # A JPEG has sides of at most 65,535 pixels.
    with pytest.raises(OutputError, match="cannot write image"):
        overlay.save(grey(1, 70_000), tmp_path / "long.jpg")
    assert [p.name for p in tmp_path.iterdir()] == ["taken.png"]
