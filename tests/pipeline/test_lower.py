"""Cached artefacts equal those that are lowered again, and other inputs have other artefacts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx
from onnx import numpy_helper

from effsam_export.errors import CheckFailed
from effsam_export.pipeline import isolate
from effsam_export.pipeline import lower as lowering
from effsam_export.pipeline.stage_cache import StageCache
from effsam_export.spec.int8 import Int8Recipe, Quantization
from effsam_export.spec.model import KeepFp32
from effsam_export.spec.stages import Artifact
from effsam_export.util import installed
from tests.backends.test_contract import target, write_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision, TargetProfile

pytestmark = pytest.mark.backend


@pytest.fixture
def stages(tmp_path: Path) -> StageCache:
    return StageCache(root=tmp_path / "stages", parts={"weights": "1"})


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return write_graph(tmp_path / "decoder.onnx")


def lowered(
    graph: Graph, profile: TargetProfile, out: Path, stages: StageCache | None
) -> tuple[Artifact, bool]:
    out.mkdir()
    return lowering.lower(graph, profile, out, out.with_suffix(".log"), stages)


def contents(artifact: Artifact, out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in artifact.files}


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_cached_artefact_equals_a_lowered_one(
    backend: str, graph: Graph, stages: StageCache, tmp_path: Path
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    profile = target(backend, "fp16")
    places = [tmp_path / name for name in ("alone", "first", "second")]
    alone, _ = lowered(graph, profile, places[0], None)
    first, made = lowered(graph, profile, places[1], stages)
    second, known = lowered(graph, profile, places[2], stages)
    assert (made, known) == (False, True)
    files = [contents(a, p) for a, p in zip((alone, first, second), places, strict=True)]
    assert files[0] == files[1] == files[2]
    assert replace(alone, files=()) == replace(first, files=()) == replace(second, files=())
    # What the cache keeps besides is not taken along.
    assert {p for p in places[2].rglob("*") if p.is_file()} == set(second.files)


def test_files_in_a_package_folder_keep_their_places(
    graph: Graph, stages: StageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("decoder.mlpackage/Manifest.json", "decoder.mlpackage/Data/weights/weight.bin")

    def lower(graph: Graph, target: TargetProfile, out: Path, log: Path) -> Artifact:
        del graph, target, log
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(name)
        (out / "left.tmp").write_bytes(b"")
        return artifact_of("fp32", *(out / name for name in names))

    monkeypatch.setattr(isolate, "lower", lower)
    for place, known in ((tmp_path / "first", False), (tmp_path / "second", True)):
        artifact, was = lowered(graph, target("onnx", "fp32"), place, stages)
        assert was == known
        assert artifact.files == tuple(place / name for name in names)
        assert contents(artifact, place) == {name: name.encode() for name in names}


def artifact_of(precision: Precision, *files: Path) -> Artifact:
    return Artifact(
        component="decoder",
        backend="onnx",
        precision=precision,
        files=files,
        tensors_by_dtype={"float32": 3},
        versions={"onnxruntime": "1.0"},
        options={"threads": 2},
    )


def another_weight(graph: Graph, _: pytest.MonkeyPatch) -> Graph:
    model = onnx.load(graph.path)
    weight = model.graph.initializer[0]
    array = numpy_helper.to_array(weight).copy()
    array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, graph.path)
    return graph


def another_recipe(graph: Graph, _: pytest.MonkeyPatch) -> Graph:
    return replace(
        graph, recipe=(KeepFp32(component="decoder", modules=("*",), reason="y", source="x"),)
    )


def other_words(graph: Graph, _: pytest.MonkeyPatch) -> Graph:
    return replace(graph, about={"title": "another"})


def another_toolchain(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.setattr(installed, "version_of", lambda _: "99")
    return graph


def another_program(graph: Graph, _: pytest.MonkeyPatch) -> Graph:
    path = graph.path.with_suffix(".pt2")
    path.write_bytes(b"program")
    return replace(graph, program=path)


@pytest.mark.parametrize(
    "change", [another_weight, another_recipe, other_words, another_toolchain, another_program]
)
def test_other_inputs_are_lowered_again(
    change: Callable[[Graph, pytest.MonkeyPatch], Graph],
    graph: Graph,
    stages: StageCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = target("onnx", "fp32")
    lowered(graph, profile, tmp_path / "first", stages)
    assert lowered(graph, profile, tmp_path / "again", stages)[1]
    changed = change(graph, monkeypatch)
    assert not lowered(changed, profile, tmp_path / "changed", stages)[1]


def test_another_precision_or_option_is_lowered_again(
    graph: Graph, stages: StageCache, tmp_path: Path
) -> None:
    profile = target("onnx", "fp32")
    others = [
        replace(profile, precision="fp16"),
        replace(profile, options={**profile.options, "threads": 1}),
    ]
    before = lowering.inputs_of(graph, profile)
    for other in others:
        assert lowering.inputs_of(graph, other) != before
    lowered(graph, profile, tmp_path / "first", stages)
    assert not lowered(graph, others[0], tmp_path / "other", stages)[1]


def quantized(graph: Graph, scheme: str, folder: Path) -> Graph:
    recipe = Int8Recipe(scheme=scheme)  # type: ignore[arg-type]
    return replace(graph, quantization=Quantization(recipe=recipe, samples=folder))


def test_components_that_int8_keeps_share_the_cache(
    graph: Graph, stages: StageCache, tmp_path: Path
) -> None:
    profile = target("onnx", "fp16")
    lowered(graph, profile, tmp_path / "first", stages)
    artifact, known = lowered(
        quantized(graph, "fp16", tmp_path), profile, tmp_path / "second", stages
    )
    assert known
    assert artifact.precision == "fp16"


def test_quantized_graphs_are_not_cached(
    graph: Graph, stages: StageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Precision] = []

    def lower(graph: Graph, target: TargetProfile, out: Path, log: Path) -> Artifact:
        del log
        assert graph.quantization is not None
        asked.append(target.precision)
        return artifact_of("int8", out / "decoder.onnx")

    monkeypatch.setattr(isolate, "lower", lower)
    for name in ("first", "second"):
        asked_for = quantized(graph, "w8a8", tmp_path)
        assert not lowered(asked_for, target("onnx", "int8"), tmp_path / name, stages)[1]
    assert asked == ["int8", "int8"]
    assert not stages.root.exists()


def test_a_failed_lowering_is_not_cached(
    graph: Graph, stages: StageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(graph: Graph, target: TargetProfile, out: Path, log: Path) -> Artifact:
        del graph, target, log
        (out / "decoder.onnx").write_bytes(b"half")
        raise CheckFailed("no good", hint="try another")

    with monkeypatch.context() as patched:
        patched.setattr(isolate, "lower", refuse)
        with pytest.raises(CheckFailed, match="no good"):
            lowered(graph, target("onnx", "fp32"), tmp_path / "first", stages)
    assert list((tmp_path / "first").iterdir()) == []
    assert not lowered(graph, target("onnx", "fp32"), tmp_path / "second", stages)[1]
