"""`effsam run` on one image: several prompts, outputs, times, and errors all at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export.bundle import archive, read
from effsam_export.imaging import rle

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Ended

    Command = Callable[..., Ended]

pytestmark = pytest.mark.backend
BOXES = ("--box", "10,10,40,40", "--box", "50,20,100,70", "--box", "60,5,80,30")


def test_several_boxes_are_numbered(command: Command, bundle: Path, photo: Path) -> None:
    done = command("run", bundle, photo, *BOXES)
    header, *rows = done.out.splitlines()
    assert header.split() == ["prompt", "mask", "score", "box", "pixels"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert re.fullmatch(r"encode \d+ ms, decode \d+ ms for 3 prompts\n", done.err)
    document = json.loads(command("run", bundle, photo, *BOXES, "--json").out)
    assert [m["prompt"] for m in document["masks"]] == [1, 2, 3]
    assert document["file"] == str(photo)
    assert document["times"].keys() == {"encode_ms", "decode_ms"}


def test_details(command: Command, bundle: Path, photo: Path) -> None:
    """`--verbose` shows the runtime and the image; data on stdout stays as it is."""
    import onnxruntime

    plain = command("run", bundle, photo, *BOXES)
    done = command("run", bundle, photo, *BOXES, "--verbose")
    assert done.out == plain.out
    lines = [line for line in done.err.splitlines() if line.startswith("  | ")]
    assert f"  | encoder: {bundle / 'encoder.onnx'}" in lines
    assert f"  | decoder: backend onnx, onnxruntime {onnxruntime.__version__}" in lines
    assert f"  | {photo}: 120 x 80 pixels, 3 prompts" in lines
    assert "  | " not in plain.err


def test_masks_of_the_document_are_those_of_the_file(
    command: Command, bundle: Path, photo: Path
) -> None:
    done = command("run", bundle, photo, "--point", "60,40", "--json", "--masks", "m.npz", "-q")
    assert done.err == ""
    with np.load("m.npz") as content:
        masks = content["masks"]
    for entry, mask in zip(json.loads(done.out)["masks"], masks, strict=True):
        found = entry["segmentation"]
        assert found == rle.coco(rle.encode(mask))
        assert entry["area"] == mask.sum()
        assert entry["prompt"] == 1


def test_pictures_of_the_masks(command: Command, bundle: Path, photo: Path) -> None:
    command("run", bundle, photo, *BOXES, "--masks", "all.npz")
    with np.load("all.npz") as content:
        masks = content["masks"]
    done = command("run", bundle, photo, *BOXES, "--masks", "made/here", "-o", "seen")
    assert done.err.splitlines()[1:] == ["wrote seen/photo.png", "wrote made/here"]
    for number, mask in enumerate(masks, start=1):
        with Image.open(f"made/here/photo-{number}.png") as picture:
            assert np.array_equal(np.asarray(picture) == 255, mask)
    command("run", bundle, photo, *BOXES, "--masks", "labels.png")
    with Image.open("labels.png") as picture:
        labels = np.asarray(picture)
    assert np.array_equal(labels > 0, masks.any(axis=0))
    with Image.open("seen/photo.png") as picture:
        assert picture.size == (120, 80)


def test_a_packed_bundle(command: Command, bundle: Path, photo: Path, tmp_path: Path) -> None:
    packed = tmp_path / "tiny.effsam.zip"
    archive.pack(bundle, packed)
    point = ("--point", "60,40", "--json")
    unpacked = json.loads(command("run", bundle, photo, *point).out)
    assert json.loads(command("run", packed, photo, *point).out)["masks"] == unpacked["masks"]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a graph is opened."""

    def opened(*_: object, **__: object) -> None:
        pytest.fail("a model was opened")

    monkeypatch.setattr(read, "open_session", opened)


def test_everything_that_is_wrong_is_said_at_once(
    command: Command, bundle: Path, photo: Path, no_model: None
) -> None:
    done = command(
        *("run", bundle, photo, "--point", "500,1", "--range", "9,1", "-o", "no/such/x.png"),
        *("--masks", "masks.zip", "--text", "cat", "--grid", "4"),
    )
    assert done.code == 2
    assert done.err.startswith("error: the arguments are wrong: 6 problems\n")
    for part in (
        "point (500, 1) is outside",
        "--range `9,1` is not",
        "there is no directory `no/such`",
        "`masks.zip` does not end in",
        "text prompts are not supported",
        "--grid: for --everything only",
    ):
        assert part in done.err
    assert list(Path().iterdir()) == []


def test_wrong_values_of_one_option_are_said_at_once(
    command: Command, bundle: Path, photo: Path, no_model: None
) -> None:
    done = command("run", bundle, photo, "--point", "a,b", "--point", "1", "--box", "1,2,3")
    assert "3 problems" in done.err
    for text in ("--point `a,b`", "--point `1`", "--box `1,2,3`"):
        assert text in done.err


def test_prompts_outside_the_image_are_numbered(
    command: Command, bundle: Path, photo: Path, no_model: None
) -> None:
    done = command("run", bundle, photo, "--box", "1,1,9,9", "--box", "200,1,300,9")
    assert done.err.startswith("error: prompt 2: box (200, 1, 300, 9) is outside the image")


def test_a_missing_bundle_and_a_missing_image(command: Command, no_model: None) -> None:
    done = command("run", "nothing", "none.png", "--point", "1,1")
    assert done.code == 2
    assert "bundle `nothing` does not exist" in done.err
    assert "image `none.png` does not exist" in done.err


def test_a_damaged_image_is_refused_before_the_model(
    command: Command, bundle: Path, photo: Path, no_model: None
) -> None:
    Path("cut.png").write_bytes(photo.read_bytes()[:300])
    done = command("run", bundle, "cut.png", "--point", "1,1")
    assert done.code == 2
    assert done.err.startswith("error: image `cut.png` cannot be read")


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        (("-o", "x.png", "--masks", "x.png"), "--output and --masks are the same path"),
        (("-o", "taken"), "is a file without suffix"),
        (("--masks", "."), "is the folder of an input image"),
    ],
)
def test_outputs_that_cannot_be(
    command: Command,
    bundle: Path,
    photo: Path,
    no_model: None,
    outputs: tuple[str, ...],
    error: str,
) -> None:
    Path("mine.png").write_bytes(photo.read_bytes())
    Path("taken").write_text("mine")
    done = command("run", bundle, "mine.png", "--point", "1,1", *outputs)
    assert done.code == 2
    assert error in done.err
    assert Path("taken").read_text() == "mine"
