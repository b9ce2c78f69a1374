"""Files of masks that are prompts: checks when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export.errors import PromptError
from effsam_export.inference.mask_prompts import load_mask_input

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({"masks": np.zeros((1, 2, 2))}, "has no `low_res_masks`"),
        ({"low_res_masks": np.zeros((3, 64, 64))}, "shape [3, 64, 64], want Kx256x256"),
        ({"low_res_masks": np.zeros((256, 256))}, "shape [256, 256], want Kx256x256"),
        ({"low_res_masks": np.zeros((0, 256, 256))}, "shape [0, 256, 256]"),
        ({"low_res_masks": np.full((1, 256, 256), np.nan)}, "holds NaN or Inf"),
    ],
    ids=["other arrays", "other size", "no set", "empty", "nan"],
)
def test_a_file_of_other_arrays(
    tmp_path: Path, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]], error: str
) -> None:
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub: allow_pickle
    with pytest.raises(PromptError) as refused:
        load_mask_input(tmp_path / "m.npz", 256)
    assert error in refused.value.message
    assert refused.value.hint == "give a file written by `effsam run --masks`"


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_a_file_that_is_not_an_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(PromptError, match="cannot be read"):
        load_mask_input(tmp_path / "m.npz", 256)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(PromptError, match="cannot be read"):
        load_mask_input(tmp_path / "m.npy", 256)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.zeros((1, 256, 256)))
    with pytest.raises(PromptError, match="it is not a zip file"):
        load_mask_input(tmp_path / "m.npy", 256)
