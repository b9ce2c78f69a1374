"""Fixtures: build files of a small model, with its stages in the cache or with an empty cache."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.matrix import builds
from tests.small import SMALL_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint

REGISTER = """
import os
os.cpu_count = lambda: {threads}
from effsam_export import models
models.MODELS["small-sam"] = ("tests.small", "SMALL_SAM")
"""


@pytest.fixture
def startup(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started know the models of the tests, and have a cache of their own.

    Cells get as many threads as this process has: the keys of their stages hold that number.
    """
    import torch

    threads = torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    folder = tmp_path / "startup"
    folder.mkdir()
    # Python imports it by itself when it starts.
    (folder / "sitecustomize.py").write_text(REGISTER.format(threads=threads), "utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("EFFSAM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def small_stages(
    stage_root: Path,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A stage cache that holds all stages of a build of the small model."""
    output = tmp_path_factory.mktemp("small-cells")
    builds.export_cells(SMALL_SAM, small_checkpoint, parity_file, stage_root, output)
    return stage_root


@pytest.fixture
def untraced(
    tmp_path: Path, startup: None, small_checkpoint: Checkpoint, parity_file: Path
) -> Path:
    """A build of the small model: what matters is the flow, not what is exported."""
    return builds.write_build(tmp_path, SMALL_SAM.name, small_checkpoint, parity_file)


@pytest.fixture
def place(untraced: Path, small_stages: Path) -> Path:
    """The same build with all of its stages, but no bundle, in the cache."""
    builds.link_stages(small_stages, untraced / "cache", SMALL_SAM.name)
    return untraced
