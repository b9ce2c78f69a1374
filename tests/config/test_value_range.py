"""The range of an image's values on the command line, and in calibration and parity files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.config import calibration
from effsam_export.config.parity import load_parity_images
from effsam_export.config.value_range import FORM, parse_range, range_of_option
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

PARITY = '[[images]]\nfile = "a.png"\nprompts = [{ name = "p", points = [[1, 1, 1]] }]\n'
CALIBRATION = 'images = ["a.png"]\nnum_samples = 20\nseed = 3\n'
TABLES = "[crops]\nsmallest = 0.5\nflip = false\n[prompts]\nper_sample = 2\n"
RANGES = {
    "auto": "auto",
    "full": "full",
    "0,4095": (0, 4095),
    "-1000,20.5": (-1000, 20.5),
    " 0 , 1e3 ": (0, 1000),
    "-3.4e38,3.4e38": (-3.4e38, 3.4e38),
}
WRONG = (
    "",
    "Auto",
    "0",
    "0,",
    ",1",
    "0,1,2",
    "1,1",
    "2,1",
    "nan,1",
    "0,inf",
    "0,1e39",
    "a,b",
    "0:1",
)


@pytest.mark.parametrize(("text", "wanted"), RANGES.items())
def test_a_range(tmp_path: Path, text: str, wanted: Any) -> None:  # noqa: ANN401
    assert parse_range(text) == range_of_option(text) == wanted
    path = tmp_path / "mine.toml"
    path.write_text(f'{PARITY}range = "{text}"')
    assert load_parity_images(path)[0].value_range == wanted
    path.write_text(f'{CALIBRATION}range = "{text}"\n{TABLES}')
    assert calibration.load(str(path)).value_range == wanted


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_range(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        range_of_option(text)
    assert caught.value.message == f"--range `{text}` is not {FORM}"
    assert "LOW has to be less than HIGH" in str(caught.value.hint)
    path = tmp_path / "mine.toml"
    path.write_text(f'{PARITY}range = "{text}"')
    with pytest.raises(UsageError, match=r"image `a\.png` has a `range` that is not `auto`"):
        load_parity_images(path)
    path.write_text(f'{CALIBRATION}range = "{text}"\n{TABLES}')
    with pytest.raises(UsageError, match=r"calibration file `mine\.toml`: `range` is not `auto`"):
        calibration.load(str(path))


def test_a_range_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{PARITY}range = [0, 1]")
    with pytest.raises(UsageError, match=r"`images\.range` is not of type str"):
        load_parity_images(path)
    path.write_text(f"{CALIBRATION}range = 3\n{TABLES}")
    with pytest.raises(UsageError, match="`range` is not of type str"):
        calibration.load(str(path))


def test_the_range_that_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PARITY)
    assert load_parity_images(path)[0].value_range == "auto"
    path.write_text(CALIBRATION + TABLES)
    assert calibration.load(str(path)).value_range == "auto"
