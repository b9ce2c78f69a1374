"""The masks of a report: small panels with prompts, masks and where they differ."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from effsam_export.imaging import overlay
from effsam_export.pipeline.report import render
from effsam_export.pipeline.report_pictures import PANEL_HEIGHT, PANEL_WIDTH
from tests.pipeline.test_report import PASSED, Page, picture


def images(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (80, 120, (120, 80)),
        (800, 1200, (360, 240)),
        (1200, 800, (320, 480)),
        (3, 1400, (360, 1)),
        # Shown in full size, noise takes more than one byte a pixel.
        (300, 350, (350, 300)),
        (1, 1, (1, 1)),
    ],
)
def test_three_small_panels(height: int, width: int, shown: tuple[int, int]) -> None:
    panels = images(render(PASSED, [picture(height, width)]))
    assert [panel.size for panel in panels] == [shown] * 3
    assert [panel.format for panel in panels] == ["JPEG", "JPEG", "PNG"]
    assert shown[0] <= PANEL_WIDTH
    assert shown[1] <= PANEL_HEIGHT


def test_panels_show_prompts_and_disagreement() -> None:
    html = render(PASSED, [picture(800, 1200)])
    text = Page(html).text
    assert "Disagreement: 1 missed, 0 added, of 960,000 pixels" in text
    assert "missed: reference only" in text
    prompted, answered, apart = (np.asarray(p.convert("RGB")).astype(int) for p in images(html))
    assert np.abs(prompted[80, 120] - overlay.GREEN).max() < 40
    assert np.abs(answered[80, 120] - overlay.GREEN).max() > 40
    coloured = (apart != apart[:, :, :1]).any(axis=2)
    assert np.count_nonzero(coloured) == 1
    assert tuple(apart[60, 90]) == overlay.ONLY_REFERENCE
    assert f"rgb{overlay.ONLY_REFERENCE}" in html


def test_equal_masks_are_said_to_be_equal() -> None:
    one = picture()
    text = Page(render(PASSED, [replace(one, actual=one.reference)])).text
    assert "The artefact's mask, IoU 1.000000" in text
    numbered = Page(render(PASSED, [replace(one, mask=3)])).text
    assert "Prompts and the reference's mask 3" in numbered
    assert "The artefact's mask 3, IoU 0." in numbered
    assert "no pixel differs" in text
