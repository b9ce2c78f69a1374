"""The report says which masks decide, and shows the others beside them."""

from __future__ import annotations

from dataclasses import replace

from effsam_export.pipeline.report import render
from tests.pipeline.test_report import CASE, PASSED, Page


def test_masks_that_do_not_decide_are_shown_beside() -> None:
    sure = replace(
        CASE,
        scores=(0.9, 0.6, 0.7, 0.981),
        stability=(0.9, 0.4, 0.6, 0.952),
        score_errors=(0.001, 0.5, 0.5, 0.002),
    )
    unsure = replace(
        sure,
        case="truck/wheel",
        mask_iou=(0.4, 0.5, 0.5, 0.996),
        stability=(0.15, 0.4, 0.6, 0.952),
        artifact_best=2,
        score_gap=0.0004,
    )
    nothing = replace(unsure, case="truck/door", stability=(0.15, 0.4, 0.6, 0.2))
    page = Page(render(replace(PASSED, cases=(sure, sure, unsure, nothing)), []))
    assert "on 4 prompts and 5 confident masks: the lowest mask IoU is 0.995230" in page.text
    assert "PyTorch is confident of 5 of 8 masks, and these decide." in page.text
    assert "Mask IoU | ≥ 0.99 | 0.995230 | Score error | ≤ 0.01 | 0.002 |" in page.text
    assert (
        "truck/wheel | 0.996000 | 3 | 0.98 | 0.95 | 0.876543 | 0.002 | "
        "tie: mask 2, not 3; gap 0.0004, IoU of the two 0.995230 | "
        "mask 0: 0.400000 (score 0.90, stability 0.15)"
    ) in page.text
    assert "truck/door | - | - | - | - | - | - | tie: " in page.text
    assert "SQNR of the embedding" not in page.text
    assert "IoU of masks that do not decide" not in Page(render(PASSED, [])).text


def test_without_confident_masks_the_sqnr_is_a_gate() -> None:
    text = Page(render(PASSED, [])).text
    assert "PyTorch is confident of 1 of 2 masks, fewer than 5, so all masks and the" in text
    assert "SQNR of the embedding, dB | ≥ 27.0 | 61.2" in text
    gates = replace(PASSED.gates, cosine=0.9999999)
    assert "≥ 67.0 | ✗ 61.2" in Page(render(replace(PASSED, gates=gates), [])).text
