"""Exports with the user's cache: what they share, what they never share, and what ends without."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import pytest
from torch import nn

from effsam_export import models
from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.config import targets as profiles
from effsam_export.models.sam.module import Sam
from effsam_export.pipeline import cached_export, stage_cache
from effsam_export.pipeline.cache_lock import CacheInUse, shared
from effsam_export.pipeline.cache_results import remove_excess, stage_results
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.prove import on_cpu, open_artifact
from effsam_export.pipeline.request import ExportRequest
from effsam_export.pipeline.run import ParityFailed
from effsam_export.spec.stages import Artifact
from tests.pipeline.test_run import lasting
from tests.pipeline.test_run import shared as from_cache
from tests.small import SMALL_SAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import StageEvent

pytestmark = pytest.mark.backend
STAGES = ("trace encoder", "lower encoder")


@pytest.fixture
def request_(
    tmp_path: Path, small: None, small_checkpoint: Checkpoint, parity_file: Path
) -> ExportRequest:
    """An export of the small encoder."""
    return ExportRequest(
        model=SMALL_SAM,
        target=profiles.load_target("onnx", "fp32"),
        checkpoint=small_checkpoint,
        output=tmp_path / "first",
        components=("encoder",),
        parity_file=parity_file,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def export(request: ExportRequest, folder: Path) -> list[StageEvent]:
    events: list[StageEvent] = []
    plan = cached_export.with_cache(resolve(request), request, folder)
    assert cached_export.run(plan, events.append).passed
    return events


def notes(events: list[StageEvent]) -> list[str]:
    return [e.detail for e in events if e.kind == "note"]


def never(*_: object) -> NoReturn:
    raise AssertionError("PyTorch is asked again")


def test_the_same_export_again_computes_nothing(
    request_: ExportRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert from_cache(export(request_, folder)) == dict.fromkeys(STAGES, False)
    monkeypatch.setattr(Sam, "encode", never)
    # Nor are the artefacts run, which are equal to the byte.
    monkeypatch.setattr(OnnxSession, "run", never)
    again = replace(request_, output=tmp_path / "second")
    assert from_cache(export(again, folder)) == dict.fromkeys(STAGES, True)
    assert lasting(again.output) == lasting(request_.output)
    assert [p.name for p in folder.iterdir()] == ["build"]


class Doubled(nn.Module):
    """Another export form with the same tensors, as another layout of an app has it."""

    def __init__(
        self, wrap: Callable[[nn.Module], nn.Module], factor: float, sam: nn.Module
    ) -> None:
        super().__init__()
        self.inner, self.factor = wrap(sam), factor

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.inner(image) * self.factor
        return found


def in_form(request: ExportRequest, factor: float) -> ExportRequest:
    encoder, decoder = request.model.components
    encoder = replace(encoder, wrap=partial(Doubled, encoder.wrap, factor))
    return replace(request, model=replace(request.model, components=(encoder, decoder)))


def test_another_form_with_the_same_tensors_gets_a_trace_of_its_own(
    request_: ExportRequest, folder: Path, tmp_path: Path
) -> None:
    export(in_form(request_, 1.0), folder)
    wrong = replace(in_form(request_, 2.0), output=tmp_path / "second")
    with pytest.raises(ParityFailed):
        export(wrong, folder)
    same = replace(in_form(request_, 1.0), output=tmp_path / "third")
    assert from_cache(export(same, folder)) == dict.fromkeys(STAGES, True)


def test_other_answers_of_the_same_component_are_asked_for(
    request_: ExportRequest, folder: Path, tmp_path: Path
) -> None:
    export(request_, folder)
    encoder, decoder = request_.model.components

    def other(*_: object) -> NoReturn:
        raise ZeroDivisionError

    model = replace(request_.model, components=(replace(encoder, reference=other), decoder))
    with pytest.raises(ZeroDivisionError):
        export(replace(request_, model=model, output=tmp_path / "second"), folder)


@pytest.mark.parametrize(
    ("backend", "options", "simulator", "cached"),
    [
        ("onnx", {}, "", True),
        ("onnx", {"provider": "CUDAExecutionProvider"}, "", False),
        ("openvino", {}, "", True),
        ("openvino", {"device": "GPU"}, "", False),
        ("tflite", {"delegate": "gpu"}, "the CPU", True),
        ("coreml", {}, "an evaluator", True),
        ("coreml", {}, "", False),
        ("tensorrt-rtx", {}, "", False),
        ("tensorrt", {}, "ONNX Runtime", False),
    ],
)
def test_only_answers_of_this_cpu_are_cached(
    backend: str, options: dict[str, str], simulator: str, cached: bool
) -> None:
    assert on_cpu(artifact_of(backend, (), options), simulator) is cached


def artifact_of(backend: str, files: tuple[Path, ...], options: dict[str, str]) -> Artifact:
    return Artifact(
        component="encoder",
        backend=backend,
        precision="fp32",
        files=files,
        tensors_by_dtype={},
        versions={},
        options=options,
    )


def test_another_artefact_or_option_has_answers_of_its_own(tmp_path: Path) -> None:
    cache = stage_cache.StageCache(root=tmp_path / "stages", parts={})
    answers = iter(range(9))

    class Backend:
        @staticmethod
        def simulator(options: object) -> str:
            return ""

        @staticmethod
        def open_session(artifact: Artifact) -> object:
            found = next(answers)
            return SimpleNamespace(run=lambda feeds: {"x": np.asarray(found)})

    def answer(content: bytes, **options: str) -> int:
        file = tmp_path / "encoder.tflite"
        file.write_bytes(content)
        artifact = artifact_of("tflite", (file,), options)
        session = open_artifact(cache, cast("Any", Backend), artifact)
        return int(session.run({"image": np.zeros(1)})["x"])

    assert [answer(b"a"), answer(b"a"), answer(b"b"), answer(b"a", num_threads="1")] == [0, 0, 2, 3]
    assert answer(b"b") == 2


def test_damaged_results_are_made_again(
    request_: ExportRequest, folder: Path, tmp_path: Path
) -> None:
    export(request_, folder)
    stages = folder / "build" / "stages"
    for number, file in enumerate(sorted(stages.rglob("*"))):
        if file.is_file() and file.suffix in (".onnx", ".npz"):
            file.write_bytes(file.read_bytes()[: -9 - number])
    again = replace(request_, output=tmp_path / "second")
    events = export(again, folder)
    assert from_cache(events) == dict.fromkeys(STAGES, False)
    assert notes(events) == []
    assert lasting(again.output) == lasting(request_.output)
    assert from_cache(
        export(replace(request_, output=tmp_path / "third"), folder)
    ) == dict.fromkeys(STAGES, True)


def blocked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder.write_bytes(b"")
    return "not a directory"


def small_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(cached_export, "FREE_BYTES", 1e18)
    return "GB that an export with a cache may need; the export works without the cache"


@pytest.mark.parametrize("fault", [blocked, small_disk])
def test_a_cache_that_cannot_be_written_is_one_note(
    request_: ExportRequest,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Path, pytest.MonkeyPatch], str],
) -> None:
    said = fault(folder, monkeypatch)
    events = export(request_, folder)
    (note,) = notes(events)
    assert said in note
    assert from_cache(events) == dict.fromkeys(STAGES, False)
    assert lasting(request_.output)
    assert not list(folder.rglob("*.partial"))


def test_the_least_recently_used_results_over_the_limit_are_removed(
    request_: ExportRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(request_, folder)
    root = folder / "build"
    before = stage_results(root)
    for age, result in enumerate(before, 1):
        file = result.path / stage_cache.RECORD if result.path.is_dir() else result.path
        os.utime(file, (1e9 - age, 1e9 - age))
    oldest = [r.path for r in before[::-1]]
    keep = before[0].bytes + before[1].bytes
    with shared(root), pytest.raises(CacheInUse):
        remove_excess(root, keep)
    assert len(stage_results(root)) == len(before)
    removed = remove_excess(root, keep)
    assert [r.path for r in removed] == oldest[: len(before) - 2]
    assert {r.path for r in stage_results(root)} == {before[0].path, before[1].path}
    # And at the end of each export, also of one that failed.
    monkeypatch.setattr(cached_export, "LIMIT_BYTES", 0)
    export(replace(request_, output=tmp_path / "second"), folder)
    assert stage_results(root) == []
    assert [p.name for p in (root / "stages").rglob("*") if p.is_file()] == []


def exported(request: tuple[Path, Checkpoint, Path], folder: Path, output: Path) -> None:
    """Export in a process of its own, without fixtures, and write which stages were cached."""
    parity_file, weights, work = request
    models.MODELS[SMALL_SAM.name] = ("tests.small", "SMALL_SAM")
    events = export(
        ExportRequest(
            model=SMALL_SAM,
            target=profiles.load_target("onnx", "fp32"),
            checkpoint=weights,
            output=output,
            components=("encoder",),
            parity_file=parity_file,
        ),
        folder,
    )
    assert notes(events) == []
    (work / f"{output.name}.txt").write_text(" ".join(map(str, from_cache(events).values())))


@pytest.mark.slow
def test_two_exports_at_once_make_each_stage_once(
    request_: ExportRequest, folder: Path, tmp_path: Path, parity_file: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    given = (parity_file, request_.weights, tmp_path)
    outputs = (tmp_path / "one", tmp_path / "other")
    processes = [context.Process(target=exported, args=(given, folder, o)) for o in outputs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0, 0]
    one, other = (o.with_suffix(".txt").read_text().split() for o in outputs)
    assert [{a, b} for a, b in zip(one, other, strict=True)] == [{"True", "False"}] * 2
    assert lasting(outputs[0]) == lasting(outputs[1])
