"""INT8 compared with FP16 and FP32: sizes, latency, sentences, and what is left out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export import backends
from effsam_export.bundle.manifest import Exported
from effsam_export.config import targets as profiles
from effsam_export.errors import CheckFailed
from effsam_export.pipeline import int8_comparison, isolate
from effsam_export.pipeline.int8_comparison import Int8Comparison, Variant
from effsam_export.pipeline.workspace import Workspace
from effsam_export.spec.int8 import Int8Recipe, Quantization
from effsam_export.spec.stages import Artifact, Graph
from effsam_export.util import cpu
from tests.backends.test_contract import COMPONENT

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.targets import Precision, TargetProfile
    from effsam_export.spec.tensors import Feeds
    from effsam_export.util.progress import StageEvent

SIZES = {"int8": 100, "fp16": 200, "fp32": 400}
SECONDS = {"int8": 0.002, "fp16": 0.03, "fp32": 0.015}


def compared(
    int8: float | None, fp16: float | None, fp32: float | None, *dots: str
) -> Int8Comparison:
    return Int8Comparison(
        component="encoder",
        int8=Variant(precision="int8", bytes=29, seconds=int8),
        baselines=(
            Variant(precision="fp16", bytes=50, seconds=fp16),
            Variant(precision="fp32", bytes=100, seconds=fp32),
        ),
        dot_products=dots,
    )


def test_the_fastest_variant_is_the_baseline() -> None:
    found = compared(0.5, 2.0, 1.0)
    assert found.baseline is not None
    assert found.baseline.precision == "fp32"
    assert found.time_share == 0.5
    assert found.size_share("fp16") == 0.58
    assert found.sentences() == (
        "encoder: 0.58 of FP16's size, 0.29 of FP32's size",
        "0.50 of FP32's latency on this machine",
    )


@pytest.mark.parametrize(
    ("dots", "advice"),
    [
        ((), "the processor has no INT8 dot products; a processor with VNNI (Intel since Ice Lake"),
        (("avx512_vnni",), "the processor has avx512_vnni, but this runtime is not faster with"),
    ],
)
def test_not_faster_comes_with_advice(dots: tuple[str, ...], advice: str) -> None:
    _, said = compared(0.99, 2.0, 1.0, *dots).sentences()
    assert said.startswith("NOT FASTER than FP32 on this machine (0.99 of its latency): ")
    assert advice in said


@pytest.mark.parametrize(("share", "faster"), [(0.94, True), (0.95, True), (0.96, False)])
def test_a_small_difference_is_not_faster(share: float, faster: bool) -> None:
    _, said = compared(share, 2.0, 1.0).sentences()
    assert said.startswith("NOT FASTER") != faster


def test_only_sizes_without_the_runtime() -> None:
    found = compared(None, None, None)
    assert found.baseline is None
    assert found.time_share is None
    assert found.sentences()[1] == "its runtime does not run here, so latency was not compared"


def test_no_variant_could_be_converted() -> None:
    found = replace(compared(1.0, 1.0, 1.0), baselines=())
    assert found.sentences()[0] == "encoder: no FP16 or FP32 variant"
    assert found.size_share("fp16") is None


# ------------------------------------------------------------------ measuring


class Sleeper:
    """A session whose latency depends on its precision."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision

    def run(self, feeds: Feeds) -> Feeds:
        assert feeds["tokens"].shape == (1, 2)
        time.sleep(SECONDS[self.precision])
        return {}


class FakeBackend:
    def __init__(self, simulator: str = "") -> None:
        self._simulator = simulator

    def simulator(self, options: object) -> str:
        del options
        return self._simulator

    def open_session(self, artifact: Artifact) -> Sleeper:
        assert not self._simulator
        return Sleeper(artifact.precision)


def artifact_of(precision: Precision, folder: Path) -> Artifact:
    path = folder / f"{precision}.bin"
    path.write_bytes(b"0" * SIZES[precision])
    return Artifact(
        component="decoder",
        backend="onnx",
        precision=precision,
        files=(path,),
        tensors_by_dtype={},
        versions={},
        options={},
    )


def exported(folder: Path, recipe: Int8Recipe) -> Exported:
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    np.savez(samples / "0000.npz", tokens=np.zeros((1, 2), np.float32))
    graph = Graph(
        component=COMPONENT,
        path=folder / "decoder.onnx",
        opset=18,
        quantization=Quantization(recipe=recipe, samples=samples),
    )
    return Exported(graph=graph, artifact=artifact_of("int8", folder))


def measured(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    simulator: str = "",
    refused: tuple[Precision, ...] = (),
    recipe: Int8Recipe | None = None,
) -> tuple[tuple[Int8Comparison, ...], list[Precision]]:
    asked: list[Precision] = []

    def lower(graph: Graph, target: TargetProfile, out: Path, log: Path) -> Artifact:
        assert graph.quantization is None
        assert log.parent == folder
        asked.append(target.precision)
        if target.precision in refused:
            raise CheckFailed("too large")
        return artifact_of(target.precision, out)

    monkeypatch.setattr(backends, "load", lambda name: FakeBackend(simulator))
    monkeypatch.setattr(isolate, "lower", lower)
    parts = [exported(folder, recipe or Int8Recipe(scheme="w8a8"))]
    target = profiles.load_target("onnx", "int8")
    space = Workspace(work=folder, scratch=folder)
    return int8_comparison.measure(parts, target, space, rounds=3), asked


def test_all_variants_are_converted_and_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (found,), asked = measured(monkeypatch, tmp_path)
    assert asked == ["fp16", "fp32"]
    assert {f.precision: f.bytes for f in (found.int8, *found.baselines)} == SIZES
    assert found.baseline is not None
    assert found.baseline.precision == "fp32"
    assert found.time_share is not None
    assert found.time_share < 0.8
    assert found.dot_products == cpu.int8_flags()


def test_only_fp16_is_converted_without_the_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (found,), asked = measured(monkeypatch, tmp_path, simulator="an evaluator")
    assert asked == ["fp16"]
    assert found.time_share is None
    assert found.size_share("fp16") == 0.5


def test_a_variant_that_does_not_convert_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (found,), _ = measured(monkeypatch, tmp_path, refused=("fp32",))
    assert [f.precision for f in found.baselines] == ["fp16"]
    assert found.baseline is found.baselines[0]


def test_a_component_that_was_not_quantized_is_not_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert measured(monkeypatch, tmp_path, recipe=Int8Recipe(scheme="fp16")) == ((), [])


def test_another_precision_is_not_compared(tmp_path: Path) -> None:
    int8 = exported(tmp_path, Int8Recipe(scheme="w8a8"))
    events: list[StageEvent] = []
    parts = [replace(int8, graph=replace(int8.graph, quantization=None))]
    target = profiles.load_target("onnx", "fp16")
    space = Workspace(work=tmp_path, scratch=tmp_path, on_event=events.append)
    assert int8_comparison.measure(parts, target, space) == ()
    assert not events


# ------------------------------------------------------------------ the processor


@pytest.mark.parametrize(
    ("text", "dots"),
    [
        (
            "model name\t: x\nflags\t\t: fpu avx2 avx512_vnni amx_int8\n",
            ("avx512_vnni", "amx_int8"),
        ),
        ("flags : fpu avx2 avx512f\n", ()),
        ("Features\t: fp asimd asimddp\n", ("asimddp",)),
        ("no such line\n", ()),
    ],
)
def test_products_of_int8(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, dots: tuple[str, ...]
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(text)
    monkeypatch.setattr(cpu, "INFO", info)
    assert cpu.int8_flags() == dots


def test_a_system_that_tells_nothing_of_its_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "INFO", tmp_path / "none")
    assert cpu.flags() == ()
