"""The wheel: exactly the package and its data, and nothing of this machine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

import effsam_export
from tests.package.source_files import source_files
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(REPOSITORY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    data = {
        f"effsam_export/_data/{f}" for f in source_files("targets") | source_files("calibration")
    }
    assert names == source_files("effsam_export") | data


INSTALLED = """
import sys
import effsam_export
from effsam_export import models
from effsam_export.config import calibration, int8_recipe, parity, targets

assert effsam_export.__file__.startswith(sys.argv[1])
print(*targets.target_names())
assert len(parity.load_parity_images()) > 0
assert len(calibration.load("default").images) > 0
for model in models.names():
    plan = int8_recipe.load(model)
    assert plan.recipe(models.get(model).components[0].name, "onnx").quantizes, model
    print(model, plan.name)
"""


def test_an_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    """Targets, images and INT8 recipes are in the wheel; the repository is not on the path."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED, str(site)],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(site), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("android-cpu android-gpu anylabeling coreml intel-cpu ")
    assert "mobile-sam mobile-sam" in lines
    assert "slim-sam-77 default" in lines


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        text = archive.read(name).decode()
    assert f"Version: {effsam_export.__version__}" in text
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.10" in text
    extras = ("torch", "onnx", "openvino", "coreml", "tflite", "tensorrt-rtx", "tensorrt", "all")
    for extra in extras:
        assert f"Provides-Extra: {extra}" in text


def test_modules_stay_small() -> None:
    """Four hundred lines at most; the ten largest are printed for whoever looks."""
    sizes = sorted(
        ((len((REPOSITORY / f).read_text().splitlines()), f) for f in source_files("*.py")),
        reverse=True,
    )
    for lines, name in sizes[:10]:
        print(f"{lines:5} {name}")
    assert sizes[0][0] <= 400, sizes[0]


def test_every_image_has_its_origin_and_licence() -> None:
    folder = REPOSITORY / "calibration" / "images"
    sources = (folder / "SOURCES.md").read_text("utf-8")
    pictures = [p.name for p in folder.iterdir() if p.suffix in (".jpg", ".png")]
    assert len(pictures) >= 3
    for name in pictures:
        (row,) = [line for line in sources.splitlines() if f"`{name}`" in line]
        assert any(licence in row for licence in ("CC0", "CC BY 2.0", "public domain"))
