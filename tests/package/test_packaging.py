"""The wheel: exactly the package and its data, and nothing of this machine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

import effsam_export
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


def tracked(folder: str) -> set[str]:
    """Files of a folder that git knows, relative to the repository."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return {f for f in done.stdout.splitlines() if (REPOSITORY / f).is_file()}


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    data = {f"effsam_export/_data/{f}" for f in tracked("targets") | tracked("calibration")}
    assert names == tracked("effsam_export") | data


def test_an_installed_wheel_finds_its_data(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import effsam_export, sys; from effsam_export import profiles;"
        "assert effsam_export.__file__.startswith(sys.argv[1]);"
        "print(profiles.target_names(), len(profiles.load_parity_images()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("('android-cpu', 'android-gpu', 'coreml', 'intel-cpu',")


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
        ((len((REPOSITORY / f).read_text().splitlines()), f) for f in tracked("*.py")), reverse=True
    )
    for lines, name in sizes[:10]:
        print(f"{lines:5} {name}")
    assert sizes[0][0] <= 400, sizes[0]


def test_every_photograph_has_its_origin_and_licence() -> None:
    folder = REPOSITORY / "calibration" / "images"
    sources = (folder / "SOURCES.md").read_text("utf-8")
    pictures = [p.name for p in folder.iterdir() if p.suffix in (".jpg", ".png")]
    assert len(pictures) >= 3
    for name in pictures:
        (row,) = [line for line in sources.splitlines() if f"`{name}`" in line]
        assert any(licence in row for licence in ("CC0", "CC BY 2.0", "public domain"))
