"""Fixtures: the tiny model and a bundle of it, the official checkpoint, the authors' outputs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.config import targets as profiles
from effsam_export.weights import fetch, own_file
from tests import small as small_sam
from tests.paths import SHARED
from tests.stages import Traces, export, sharing
from tests.tiny import TINY_SAM, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import OnEvent

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: each computes in one thread. Set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

COMPILERS = {"compiler", "kotlin", "node"}
"""Fixtures of `tests/integrate` that need a toolchain."""
PARITY = """
[[images]]
file = "{image}"
prompts = [
  {{ name = "point", points = [[60, 40, 1]] }},
  {{ name = "both", points = [[20, 20, 0]], box = [10, 10, 90, 60] }},
  {{ name = "again", points = [[30, 30, 1]], mask_from = "point" }},
]
"""


COLLECTED = pytest.StashKey[dict[str, list[str]]]()
"""The marks of every collected test by its id, of those too that `-m` and `-k` leave out."""
SKIPPED_FILES: list[str] = []
"""Files that were skipped as a whole because a package is absent."""


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record files that are skipped."""
    if report.skipped:
        SKIPPED_FILES.append(report.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check, complete and record the marks, before `-m` selects by them.

    Raises:
        pytest.UsageError: A test is in two tiers, or uses the official weights outside their tier.
    """
    outputs_exist = (SHARED / "golden").is_dir()
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        weights, slow = (item.get_closest_marker(m) is not None for m in ("weights", "slow"))
        if weights and slow:
            raise pytest.UsageError(f"{item.nodeid} is marked both `weights` and `slow`")
        if "official" in fixtures and not (weights or slow):
            message = f"{item.nodeid} uses `official` and is marked neither `weights` nor `slow`"
            raise pytest.UsageError(message)
        if fixtures & COMPILERS:
            item.add_marker(pytest.mark.compiler)
        if item.get_closest_marker("shared") and not outputs_exist:
            item.add_marker(pytest.mark.skip(reason=f"no authors' outputs at {SHARED}"))
    config.stash[COLLECTED] = {i.nodeid: [m.name for m in i.iter_markers()] for i in items}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with `golden/`, `images/` and `weights/`."""
    return SHARED


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the tiny model into the table of models."""
    monkeypatch.setitem(models.MODELS, TINY_SAM.name, ("tests.tiny", "TINY_SAM"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Weights of the tiny model."""
    path = write_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt")
    return own_file.checkpoint_from_file(path, None)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the small model into the table of models."""
    monkeypatch.setitem(models.MODELS, small_sam.SMALL_SAM.name, ("tests.small", "SMALL_SAM"))


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Weights of the small model."""
    path = small_sam.write_checkpoint(tmp_path_factory.mktemp("weights") / "small.pt")
    return own_file.checkpoint_from_file(path, None)


@pytest.fixture(scope="session")
def stage_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the stage cache in which all workers of a session share what they export."""
    base = tmp_path_factory.getbasetemp()
    # A worker's own folder lies in the session's.
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "stages"


@pytest.fixture
def shared_stages(monkeypatch: pytest.MonkeyPatch, stage_root: Path) -> None:
    """Let exports take traces, artefacts and PyTorch's answers that other tests left.

    For models as they stand in the table: a test that changes one under its name may not use it.
    """
    from effsam_export.pipeline import cached_export, run

    unshared = run.export

    def with_stages(request: ExportRequest, *on_event: OnEvent) -> ParityReport:
        if request.stage_cache is None:
            request = sharing(request, stage_root)
        return unshared(request, *on_event)

    def with_cache(plan: ExportPlan, request: ExportRequest, folder: Path) -> ExportPlan:
        return replace(plan, stage_cache=sharing(request, stage_root).stage_cache)

    monkeypatch.setattr(run, "export", with_stages)
    # Those of the command line and of `effsam_export.export`.
    monkeypatch.delenv("EFFSAM_NO_CACHE")
    monkeypatch.setattr(cached_export, "with_cache", with_cache)


@pytest.fixture(scope="session", autouse=True)
def no_user_cache() -> Iterator[None]:
    """Keep exports out of the user's stage cache, also those of fixtures and other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFSAM_NO_CACHE", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_traces() -> Iterator[None]:
    """Trace a component with the same weights once in each worker."""
    if find_spec("torch") is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        Traces().install(patch)
        yield


@pytest.fixture
def own_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace every time, for tests that are about tracing."""
    Traces.uninstall(monkeypatch)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small picture with an edge in it, 120x80."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:80, 0:120]
    image = np.stack([x * 2, y * 3, 255 * ((x - 60) ** 2 + (y - 40) ** 2 < 900)], axis=-1)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(image.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def parity_file(photo: Path) -> Path:
    """Prompts on that picture."""
    path = photo.parent / "parity.toml"
    path.write_text(PARITY.format(image=photo.name), "utf-8")
    return path


@pytest.fixture(scope="session")
def onnx_target() -> TargetProfile:
    """The `onnx` target in FP32."""
    return profiles.load_target("onnx", "fp32")


@pytest.fixture(scope="session")
def exported_tiny(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Checkpoint,
    parity_file: Path,
    onnx_target: TargetProfile,
    stage_root: Path,
) -> Path:
    """A bundle of the tiny model, made once; tests that change it take `bundle`."""
    from effsam_export.pipeline.request import ExportRequest

    output = tmp_path_factory.mktemp("bundles") / "tiny"
    request = ExportRequest(
        model=TINY_SAM,
        target=onnx_target,
        checkpoint=tiny_checkpoint,
        output=output,
        parity_file=parity_file,
    )
    export(request, stage_root)
    return output


@pytest.fixture
def bundle(exported_tiny: Path, tmp_path: Path, tiny: None) -> Path:
    """A copy of the tiny bundle that a test may break."""
    return Path(shutil.copytree(exported_tiny, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def official() -> Checkpoint:
    """The official MobileSAM checkpoint; `make test-weights` and `test-slow` fetch it first."""
    spec = models.get("mobile-sam")
    assert spec.weights is not None
    found = fetch.cached(spec.weights, cache_dir=fetch.default_cache_dir())
    assert found is not None, "run `effsam fetch mobile-sam` first, as `make test-weights` does"
    return found
