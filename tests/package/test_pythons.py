"""Python 3.10 to 3.13 install the package, and run and verify a bundle that was made with one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export.config.toml import read_toml
from tests.package import check_pythons
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from effsam_export.spec.targets import TargetProfile

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
PYENV = Path.home() / ".pyenv" / "versions"
IMAGE = REPOSITORY / "calibration" / "images" / "coffee.jpg"


def interpreter(version: str) -> str | None:
    """The newest patch release that pyenv has, else a program on the path; None for neither."""
    releases = [p for p in PYENV.glob(f"{version}.*") if (p / "bin" / "python").is_file()]
    if releases:
        newest = max(releases, key=lambda p: int(p.name.split(".")[2]))
        return str(newest / "bin" / "python")
    return shutil.which(f"python{version}")


@pytest.fixture(scope="module")
def mobile_sam(
    tmp_path_factory: pytest.TempPathFactory, parity_file: Path, onnx_target: TargetProfile
) -> Path:
    """A bundle of MobileSAM with random weights: no file has to be fetched for it."""
    import torch

    from effsam_export import models
    from effsam_export.pipeline import run
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.weights import own_file

    folder = tmp_path_factory.mktemp("pythons")
    spec = models.get("mobile-sam")
    torch.manual_seed(0)
    torch.save(spec.build().state_dict(), folder / "random.pt")
    run.export(
        ExportRequest(
            model=spec,
            target=onnx_target,
            checkpoint=own_file.checkpoint_from_file(folder / "random.pt", None),
            output=folder / "bundle",
            parity_file=parity_file,
        )
    )
    return folder / "bundle"


def test_the_metadata_name_these_versions() -> None:
    project = read_toml(REPOSITORY / "pyproject.toml")["project"]
    prefix = "Programming Language :: Python :: 3."
    named = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if c.startswith(prefix)]
    assert tuple(named) == VERSIONS
    assert project["requires-python"] == f">={VERSIONS[0]}"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.backend
@pytest.mark.parametrize("version", VERSIONS)
def test_this_python_runs_and_verifies_a_bundle(
    version: str, mobile_sam: Path, tmp_path: Path
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here, neither of pyenv nor on the path")
    used = check_pythons.check(python, mobile_sam, IMAGE, tmp_path)
    assert used.startswith(f"{version}.")
