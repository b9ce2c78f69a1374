"""Mask files: atomic writes, and checks when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effsam_export.errors import OutputError, PromptError
from effsam_export.inference.runner import Prediction
from effsam_export.inference.segment import best_of_each, bounding_box, load_mask_input, save_masks
from effsam_export.util.files import write_whole


def prediction(scores: list[float]) -> Prediction:
    k = len(scores)
    return Prediction(
        masks=np.arange(k * 12).reshape(k, 3, 4) % 5 == 0,
        scores=np.asarray(scores, np.float32),
        low_res_masks=np.full((k, 256, 256), scores[0], np.float32),
        indices=tuple(range(1, k + 1)),
    )


def test_bounding_box_is_inclusive() -> None:
    mask = np.zeros((10, 20), dtype=bool)
    assert bounding_box(mask) is None
    mask[3:6, 4] = True
    assert bounding_box(mask) == (4, 3, 4, 5)
    mask[9, 19] = True
    assert bounding_box(mask) == (4, 3, 19, 9)


def test_saved_masks_can_be_mask_input(tmp_path: Path) -> None:
    save_masks(prediction([0.9, 0.5]), tmp_path / "m.npz")
    logits = load_mask_input(tmp_path / "m.npz", 256)
    assert logits.shape == (256, 256)
    assert float(logits[0, 0]) == pytest.approx(0.9)
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def test_best_of_each_keeps_order() -> None:
    joined = best_of_each([prediction([0.2, 0.1]), prediction([0.9])])
    assert joined.scores.tolist() == pytest.approx([0.2, 0.9])
    assert joined.masks.shape == (2, 3, 4)
    assert joined.indices == (1, 1)


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


def test_write_whole_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError) as failed:
        write_whole(path, b"new")
    assert failed.value.message == f"cannot write `{path}`: no space left on device"
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
