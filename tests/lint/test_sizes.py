"""Ranks, sizes that are not known, resizing and repeating."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tests.lint.tools import hits, subject, target

pytestmark = pytest.mark.backend

IMAGE = torch.zeros(1, 2, 4, 4)


def split_heads(x: Tensor) -> Tensor:
    """To rank 5 and back, as in SAM's own attention."""
    return x.reshape(1, 2, 2, 2, 4).permute(0, 2, 1, 3, 4).flatten(0, 3)


def windows(x: Tensor) -> Tensor:
    """To rank 6."""
    return x.reshape(1, 2, 2, 2, 2, 2).permute(0, 1, 2, 4, 3, 5).flatten()


# ------------------------------------------------------------------ ranks


def test_more_than_four_axes_are_too_many_for_the_delegate() -> None:
    assert hits("rank-4", subject(split_heads, IMAGE)) == [
        ("view", "rank 5: 1x2x2x2x4", "error"),
        ("permute", "rank 5: 1x2x2x2x4", "error"),
        ("clone", "rank 5: 1x2x2x2x4", "error"),
    ]


def test_five_axes_are_not_too_many_for_core_ml() -> None:
    assert hits("rank-5", subject(split_heads, IMAGE)) == []


def test_six_axes_are_too_many_for_core_ml() -> None:
    assert hits("rank-5", subject(windows, IMAGE)) == [
        ("reshape", "rank 6: 1x2x2x2x2x2", "error"),
        ("permute", "rank 6: 1x2x2x2x2x2", "error"),
    ]


def test_five_axes_leave_the_neural_engine() -> None:
    assert [h[2] for h in hits("rank-engine", subject(split_heads, IMAGE))] == ["warning"] * 2


def test_axes_inside_a_composite_operator_count() -> None:
    def einsum(x: Tensor) -> Tensor:
        return torch.einsum("bhwc,hkc->bhwk", x, x[0])

    assert {h[1].split(":")[0] for h in hits("rank-4", subject(einsum, IMAGE))} == {"rank 5"}
    assert hits("rank-engine", subject(einsum, IMAGE)) == []


@pytest.mark.parametrize(("limit", "count"), [(5, 0), (4, 3), (None, 0)])
def test_a_target_file_states_its_own_rank(limit: int | None, count: int) -> None:
    to = target("tflite") if limit is None else target("tflite", max_rank=limit)

    assert len(hits("rank-stated", subject(split_heads, IMAGE, to=to))) == count


# ------------------------------------------------------------------ sizes


def test_an_input_of_no_fixed_size_is_found() -> None:
    found = subject(lambda x: x + 1, torch.zeros(3, 2), dynamic=({0: "prompts"},))

    assert hits("dynamic-input", found) == [("args_0", "`x0` is promptsx2", "error")]


def test_fixed_inputs_are_fine() -> None:
    assert hits("dynamic-input", subject(lambda x: x + 1, torch.zeros(3, 2))) == []


def test_selecting_by_a_mask_depends_on_values() -> None:
    def masked(x: Tensor) -> Tensor:
        return x[x > 0].sum()

    assert hits("data-dependent", subject(masked, IMAGE)) == [
        ("index", "gives u0, known only when it runs", "error")
    ]


def test_a_size_read_out_of_a_tensor_depends_on_values() -> None:
    def resized(x: Tensor, size: Tensor) -> Tensor:
        side: Any = size[0].item()
        torch._check(side > 1)  # type: ignore[no-untyped-call]
        torch._check(side < 9)  # type: ignore[no-untyped-call]
        return interpolate(x, size=(side, side), mode="nearest")

    found = subject(resized, IMAGE, torch.tensor([8, 8]))

    assert hits("data-dependent", found)[0] == ("item", "reads a number out of a tensor", "error")
    assert [h[1] for h in hits("dynamic-resize", found)] == ["to u0xu0"]


def test_selecting_by_arithmetic_is_fine() -> None:
    def masked(x: Tensor) -> Tensor:
        return (x * (x > 0).to(x.dtype)).sum()

    assert hits("data-dependent", subject(masked, IMAGE)) == []


def test_resizing_to_a_dynamic_size_is_found() -> None:
    def doubled(x: Tensor) -> Tensor:
        return interpolate(x, scale_factor=2.0, mode="bilinear")

    found = subject(doubled, torch.zeros(1, 2, 5, 5), dynamic=({2: "side"},))

    assert [h[0] for h in hits("dynamic-resize", found)] == ["upsample_bilinear2d"]
    assert hits("dynamic-resize", subject(doubled, IMAGE)) == []


@pytest.mark.parametrize(("antialias", "count"), [(False, 0), (True, 1)])
def test_bicubic_to_a_fixed_size_is_fine_without_antialiasing(antialias: bool, count: int) -> None:
    def resized(x: Tensor) -> Tensor:
        return interpolate(x, size=(2, 2), mode="bicubic", antialias=antialias)

    found = hits("bicubic-resize", subject(resized, IMAGE))

    assert found == [("_upsample_bicubic2d_aa", "with antialiasing, to 2x2", "error")] * count


def test_bicubic_to_a_dynamic_size_is_found() -> None:
    def doubled(x: Tensor) -> Tensor:
        return interpolate(x, scale_factor=2.0, mode="bicubic")

    found = subject(doubled, torch.zeros(1, 2, 5, 5), dynamic=({2: "side"},))

    assert [h[0] for h in hits("bicubic-resize", found)] == ["upsample_bicubic2d"]


# ------------------------------------------------------------------ repeats


def test_repeat_interleave_by_a_number_is_slow() -> None:
    found = subject(lambda x: torch.repeat_interleave(x, 3, dim=0), IMAGE)

    assert hits("repeat-interleave", found) == [
        ("repeat_interleave", "3 times, gives 3x2x4x4", "warning")
    ]


def test_repeat_interleave_by_a_computed_number_is_refused() -> None:
    def repeated(x: Tensor, prompts: Tensor) -> Tensor:
        return torch.repeat_interleave(x, prompts.shape[0], dim=0) + prompts

    found = subject(repeated, IMAGE, torch.zeros(3, 2, 4, 4), dynamic=({}, {0: "prompts"}))

    (hit,) = hits("repeat-interleave", found)
    assert hit[0] == "repeat_interleave"
    assert hit[1].startswith("a number of times that is computed, gives ")
    assert hit[2] == "error"


def test_repeat_interleave_once_is_fine() -> None:
    found = subject(lambda x: torch.repeat_interleave(x, 1, dim=0), IMAGE)

    assert hits("repeat-interleave", found) == []


def test_tiling_by_a_computed_number_is_found() -> None:
    def tiled(x: Tensor, prompts: Tensor) -> Tensor:
        return x.repeat(prompts.shape[0], 1, 1, 1) + prompts

    found = subject(tiled, IMAGE, torch.zeros(3, 2, 4, 4), dynamic=({}, {0: "prompts"}))

    assert [h[0] for h in hits("dynamic-tile", found)] == ["repeat"]
    assert hits("dynamic-tile", subject(lambda x: x.repeat(2, 1, 1, 1), IMAGE)) == []
