"""Automatic mask generation: filters, order and batches, with a decoder of known masks."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export import models
from effsam_export.imaging.images import frame_of
from effsam_export.inference import automatic_masks, mask_filter, overlay_many
from effsam_export.inference.automatic_masks import (
    GridSettings,
    generate,
    grid,
    without_duplicates,
)
from effsam_export.inference.mask_records import record_of
from effsam_export.inference.runner import Embedded
from effsam_export.spec.prompts import Sample

if TYPE_CHECKING:
    from effsam_export.inference.mask_records import MaskRecord
    from effsam_export.spec.tensors import Feeds

MODEL = models.get("mobile-sam")
SIZE = (256, 256)


def embedded() -> Embedded:
    sample = Sample(
        image=np.zeros((*SIZE, 3), np.uint8), embeddings=np.zeros((1, 256, 64, 64), np.float32)
    )
    return Embedded(frame=frame_of(SIZE, MODEL.preprocess), sample=sample)


class Discs:
    """Answers a point in the left half with a disc around (64, 128), in the right with another.

    Of the three masks the first is good, the second has a low score, the third a soft edge.
    """

    def __init__(self, slope: float = 100.0) -> None:
        self.batches: list[int] = []
        self.slope = slope

    def run(self, feeds: Feeds) -> Feeds:
        coords = feeds["point_coords"]
        self.batches.append(len(coords))
        y, x = np.mgrid[0:256, 0:256]
        low_res = np.full((len(coords), 4, 256, 256), -9.0, np.float32)
        iou = np.zeros((len(coords), 4), np.float32)
        for i, point in enumerate(coords[:, 0]):
            # The prompt frame has 1024 pixels, the logits 256.
            centre = 64 if point[0] < 512 else 192
            distance = 30 - np.hypot(x - centre, y - 128)
            low_res[i, 1] = distance * self.slope
            low_res[i, 2] = distance * self.slope
            low_res[i, 3] = distance * 0.05
            iou[i] = (0.99, 0.95, 0.5, 0.97)
        return {"low_res_masks": low_res, "iou_predictions": iou}


def test_the_grid_is_at_the_centres_of_cells() -> None:
    assert grid((100, 200), 2) == [(50, 25), (150, 25), (50, 75), (150, 75)]
    assert len(grid((10, 10), 32)) == 1024


def test_one_mask_for_each_object() -> None:
    found = generate(MODEL, Discs(), embedded(), GridSettings(points_per_side=4))
    assert len(found) == 2
    assert sorted(f.box[0] for f in found) == pytest.approx([34, 162], abs=2)
    for record in found:
        assert record.score == pytest.approx(0.95)
        assert record.stability is not None
        assert record.stability > 0.95
        assert record.area == record.decoded().sum()


def test_masks_with_low_scores_are_removed() -> None:
    assert generate(MODEL, Discs(), embedded(), GridSettings(points_per_side=2, score=0.96)) == ()


def test_unstable_masks_are_removed() -> None:
    """The third mask passes by score, and would win; its stability is low."""
    rough = generate(
        MODEL, Discs(), embedded(), GridSettings(points_per_side=2, stability=0.0, box_nms=1.0)
    )
    assert {round(f.score, 2) for f in rough} == {0.95, 0.97}
    fine = generate(MODEL, Discs(), embedded(), GridSettings(points_per_side=2, box_nms=1.0))
    assert {round(f.score, 2) for f in fine} == {0.95}


def test_the_batch_size_does_not_change_the_masks() -> None:
    one, many = Discs(), Discs()
    settings = {"points_per_side": 3}
    alone = generate(MODEL, one, embedded(), GridSettings(points_per_batch=1, **settings))
    together = generate(MODEL, many, embedded(), GridSettings(points_per_batch=4, **settings))
    assert alone == together
    assert (one.batches, many.batches) == ([1] * 9, [4, 4, 1])


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    generate(
        MODEL,
        Discs(),
        embedded(),
        GridSettings(points_per_side=3, points_per_batch=5),
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(5, 9), (9, 9)]


def test_a_decoder_without_masks() -> None:
    class Nothing(Discs):
        def run(self, feeds: Feeds) -> Feeds:
            outputs = super().run(feeds)
            return {**outputs, "low_res_masks": np.full_like(outputs["low_res_masks"], -5)}

    assert generate(MODEL, Nothing(), embedded(), GridSettings(points_per_side=2)) == ()


def record(x: int, score: float, side: int = 20) -> MaskRecord:
    mask = np.zeros(SIZE, bool)
    mask[10 : 10 + side, x : x + side] = True
    found = record_of(
        mask, (0, 0), SIZE, score=score, stability=0.99, point=(x, 10), crop=(0, 0, *SIZE)
    )
    assert found is not None
    return found


def test_nms_keeps_the_best_of_overlapping_masks() -> None:
    given = [record(10, 0.9), record(11, 0.95), record(100, 0.5)]
    assert [f.score for f in without_duplicates(given, 0.7)] == [0.95, 0.5]
    assert without_duplicates([], 0.7) == ()


def test_a_failure_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise MemoryError("no memory for a mask")

    monkeypatch.setattr(mask_filter, "stability", fail)
    with pytest.raises(MemoryError, match="no memory for a mask"):
        generate(MODEL, Discs(), embedded(), GridSettings(points_per_side=2))


def test_a_batch_is_filtered_while_the_decoder_runs() -> None:
    """The second call waits for a record of the first batch, which no later step could make."""
    made = threading.Event()

    class Waiting(Discs):
        def run(self, feeds: Feeds) -> Feeds:
            if self.batches:
                assert made.wait(timeout=60)
            return super().run(feeds)

    class Seen(mask_filter.MaskFilter):
        def record(self, candidate: mask_filter.Candidate) -> MaskRecord | None:
            record = super().record(candidate)
            made.set()
            return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automatic_masks, "MaskFilter", Seen)
        settings = GridSettings(points_per_side=2, points_per_batch=2)
        assert len(generate(MODEL, Waiting(), embedded(), settings)) == 2


# ------------------------------------------------------------------ what a person gets


def test_small_masks_are_drawn_over_large_ones() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    drawn = overlay_many.draw(image, [record(10, 0.9, side=10), record(5, 0.8, side=60)])
    assert not np.array_equal(drawn[15, 15], drawn[50, 50])
    assert not drawn[200, 200].any()
    assert (drawn[10, 5] == 255).all()


def test_neighbouring_colours_differ() -> None:
    colours = [np.asarray(overlay_many.colour(i), int) for i in range(20)]
    assert all(np.abs(a - b).max() > 60 for a, b in itertools.pairwise(colours))
