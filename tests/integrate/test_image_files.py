"""Generated Python reads image files as `effsam run` does."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export.errors import ImageError
from effsam_export.imaging.decode import read_image
from effsam_export.integrate.python import COPIES
from tests.bundle.fake import manifest_of
from tests.imaging.deep_files import png16, tiff
from tests.integrate.tools import KINDS, generate, import_file, manifest_for, pixels

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from effsam_export.imaging.pixels import ValueRange

EIGHT = pixels((80, 120))
DEEP = EIGHT.astype(np.uint16) << 4
FILES = {
    "8 bits": tiff(EIGHT),
    "12 bits": png16(DEEP),
    "12 bits with alpha": png16(np.concatenate([DEEP[..., :1], DEEP[..., 1:2]], axis=-1)),
    "signed": tiff(EIGHT[..., :1].astype(np.int16) - 100),
    "unsigned 32 bits": tiff(EIGHT[..., :1].astype(np.uint32) << 24),
    "floating point": tiff((EIGHT[..., :1] / 255).astype(np.float32), deflated=True),
    "two pages": tiff(DEEP, DEEP),
    "rotated": tiff(DEEP, more={0x0112: 6}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(manifest_for(KINDS["pad"]), "python", tmp_path_factory.mktemp("code"))


@pytest.fixture
def code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`images.py`, with the modules beside it that it imports."""
    for name in COPIES:
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.syspath_prepend(folder)
    return import_file(folder / "images.py")


@pytest.mark.parametrize("value_range", ["auto", "full", (10, 1000)], ids=str)
@pytest.mark.parametrize("kind", FILES)
def test_files_are_read_alike(
    code: ModuleType, tmp_path: Path, kind: str, value_range: ValueRange
) -> None:
    path = tmp_path / "image"
    path.write_bytes(FILES[kind])
    if (kind, value_range) == ("floating point", "full"):
        with pytest.raises(ImageError) as refused:
            read_image(path, value_range)
        with pytest.raises(ValueError, match="floating-point") as caught:
            code.load_image(path, value_range)
        assert str(caught.value) in refused.value.message
        return
    wanted, found = read_image(path, value_range), code.read_image(path, value_range)
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    assert (found.low, found.high, found.notes) == (wanted.low, wanted.high, wanted.notes)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        loaded = code.load_image(path, value_range)
    np.testing.assert_array_equal(loaded, wanted.pixels)
    assert [str(w.message) for w in given] == [f"image `{path}` {n}" for n in wanted.notes]


def test_a_photograph_is_read_alike(code: ModuleType, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(EIGHT).save(tmp_path / "photo.jpg", exif=exif)
    wanted = read_image(tmp_path / "photo.jpg").pixels
    np.testing.assert_array_equal(code.load_image(tmp_path / "photo.jpg"), wanted)


@pytest.mark.backend
def test_a_deep_image_gives_the_masks_of_the_command(bundle: Path, tmp_path: Path) -> None:
    """In a process of its own, without this package on its path."""
    from effsam_export.inference.segment import segment
    from effsam_export.spec.prompts import Point, Prompt

    path = tmp_path / "deep.png"
    path.write_bytes(FILES["12 bits"])
    folder = generate(manifest_of(bundle), "python", tmp_path / "code")
    script = (
        "import sys, warnings, numpy as np\n"
        "warnings.simplefilter('ignore')\n"
        "from images import load_image\n"
        "from segmenter import Segmenter\n"
        "assert not any(name.startswith('effsam_export') for name in sys.modules)\n"
        "segmenter = Segmenter(sys.argv[1])\n"
        "answer = segmenter.predict(segmenter.embed(load_image(sys.argv[2])), [(60, 40, 1)])\n"
        "np.save(sys.argv[3], answer.masks)\n"
    )
    arguments = [sys.executable, "-c", script, bundle, path, tmp_path / "masks.npy"]
    done = subprocess.run([str(a) for a in arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = segment(bundle, path, [Prompt(points=(Point(x=60, y=40),))]).prediction.masks
    assert wanted.any()
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), wanted)
