"""ONNX Runtime runs a graph on the asked provider, or says which one it would be."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from effsam_export.backends.onnx import backend, session
from effsam_export.backends.onnx.session import CPU, LARGE_FEEDS, OnnxSession
from effsam_export.errors import CheckFailed
from effsam_export.spec.stages import Artifact
from effsam_export.spec.tensors import ReportedTensor
from tests.graph.passes.tools import parse

pytestmark = pytest.mark.backend
CUDA = "CUDAExecutionProvider"
AZURE = "AzureExecutionProvider"
"""In every package of ONNX Runtime; it runs no node of a plain graph."""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x + x for any number of rows."""
    path = tmp_path / "toy.onnx"
    onnx.save(parse("toy (float[rows, 3] x) => (float[rows, 3] y) { y = Add(x, x) }"), path)
    return path


def test_the_cpu_is_given(graph: Path) -> None:
    found = OnnxSession(graph, CPU).run({"x": np.ones((2, 3), np.float32)})
    assert found["y"].tolist() == [[2.0] * 3] * 2


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[onnxruntime.SessionOptions]:
    """The options of the sessions that a test opens."""
    asked = []
    options = onnxruntime.SessionOptions

    def recorded() -> onnxruntime.SessionOptions:
        asked.append(options())
        return asked[-1]

    monkeypatch.setattr(onnxruntime, "SessionOptions", recorded)
    return asked


def test_number_of_threads_reaches_the_runtime(
    graph: Path, asked: list[onnxruntime.SessionOptions]
) -> None:
    OnnxSession(graph, CPU)
    OnnxSession(graph, CPU, 3)
    assert [o.intra_op_num_threads for o in asked] == [0, 3]


@pytest.mark.parametrize(("component", "kept"), [("encoder", False), ("decoder", True)])
def test_a_decoder_keeps_its_memory_between_calls(
    graph: Path, asked: list[onnxruntime.SessionOptions], component: str, kept: bool
) -> None:
    artifact = Artifact(
        component=component,
        backend="onnx",
        precision="fp32",
        files=(graph,),
        tensors_by_dtype={},
        ops={},
        versions={},
        options={"provider": CPU},
    )
    opened = backend.open_session(artifact)
    assert [o.enable_cpu_mem_arena for o in asked] == [kept]
    x = np.ones((LARGE_FEEDS // 12 + 1, 3), np.float32)
    assert opened.run({"x": x})["y"].sum() == 2 * x.size


@pytest.mark.parametrize("arena", [False, True])
def test_memory_of_a_large_call_is_given_back(tmp_path: Path, arena: bool) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize()

    path = tmp_path / "sums.onnx"
    text = "sums (float[rows, 3] x) => (float[1, 1] y) { z = Add(x, x) y = ReduceSum(z) }"
    onnx.save(parse(text), path)
    opened = OnnxSession(path, CPU, arena=arena)
    x = np.ones((20_000_000, 3), np.float32)
    opened.run({"x": x[:2]})
    before = resident()
    # `z` has 240 MB.
    assert opened.run({"x": x})["y"].item() == pytest.approx(2 * x.size, rel=1e-3)
    assert resident() < before + 100e6


def test_signature(graph: Path) -> None:
    found = OnnxSession(graph, CPU).signature()
    assert found.inputs == (ReportedTensor(name="x", shape=(None, 3), dtype="float32"),)
    assert found.outputs == (ReportedTensor(name="y", shape=(None, 3), dtype="float32"),)


@pytest.mark.parametrize("asked", [CUDA, "TensorrtExecutionProvider", "cpu", "", "nonsense"])
@pytest.mark.filterwarnings("error")
def test_a_provider_that_is_not_installed(
    graph: Path, asked: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckFailed) as caught:
        OnnxSession(graph, asked)
    assert f"asks ONNX Runtime for `{asked}`, and it would give `{CPU}`" in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(AZURE not in onnxruntime.get_available_providers(), reason="not installed")
@pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason="ONNX Runtime before 1.24 does not record what a provider runs",
)
def test_a_provider_that_runs_no_node(graph: Path) -> None:
    with pytest.raises(CheckFailed, match=f"asks ONNX Runtime for `{AZURE}`, .* gives `{CPU}`"):
        OnnxSession(graph, AZURE)


class Opened:
    """A session whose providers are made up."""

    def __init__(self, providers: list[str], nodes: list[str] | None) -> None:
        self._providers = providers
        if nodes is not None:
            parts = [type("Part", (), {"ep_name": name})() for name in nodes]
            self.get_provider_graph_assignment_info = lambda: parts

    def get_providers(self) -> list[str]:
        return self._providers


@pytest.mark.parametrize(
    ("providers", "nodes"),
    [
        ([CUDA, CPU], [CUDA, CUDA]),
        ([CUDA, CPU], [CPU, CUDA]),
        ([CUDA, CPU], None),
        ([CUDA, CPU], []),
    ],
    ids=["all nodes", "some nodes", "older than 1.24", "no nodes"],
)
def test_the_asked_provider_is_given(providers: list[str], nodes: list[str] | None) -> None:
    session.check_provider(Opened(providers, nodes), CUDA)


@pytest.mark.parametrize(
    ("providers", "nodes"),
    [([CPU], None), ([CPU], [CPU]), ([CUDA, CPU], [CPU]), ([], None)],
    ids=["fell back", "fell back, recorded", "runs nothing", "none"],
)
def test_another_provider_is_given(providers: list[str], nodes: list[str] | None) -> None:
    given = f"`{CPU}`" if providers else "none"
    with pytest.raises(CheckFailed, match=f"asks ONNX Runtime for `{CUDA}`, and it gives {given}"):
        session.check_provider(Opened(providers, nodes), CUDA)


def test_an_installed_provider_that_cannot_start(
    graph: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As with CUDA's package and no driver, by one of the two ways that ONNX Runtime has."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    real: Any = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *a, providers, **k: real(*a, providers=[CPU], **k),
    )
    with pytest.raises(CheckFailed, match=f"for `{CUDA}`, and it gives `{CPU}`"):
        OnnxSession(graph, CUDA)
    monkeypatch.setattr(onnxruntime, "InferenceSession", real)
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(CheckFailed) as caught:
        OnnxSession(graph, CUDA)
    assert f"`{CUDA}`" in str(caught.value)
    assert capfd.readouterr().out == ""


def test_the_option_of_the_target_is_asked_for(graph: Path) -> None:
    artifact = Artifact(
        component="toy",
        backend="onnx",
        precision="fp32",
        files=(graph,),
        tensors_by_dtype={},
        versions={},
        options={"provider": CUDA},
    )
    with pytest.raises(CheckFailed, match=CUDA):
        backend.open_session(artifact)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07\x12"], ids=repr)
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "toy.onnx").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"ONNX Runtime cannot open `toy\.onnx`"):
        OnnxSession(tmp_path / "toy.onnx", CPU)


@pytest.mark.parametrize(
    "feeds",
    [{}, {"z": np.ones((2, 3), np.float32)}, {"x": np.ones((2, 4), np.float32)}, {"x": "text"}],
    ids=["none", "another name", "another shape", "text"],
)
def test_other_inputs(graph: Path, feeds: dict[str, Any]) -> None:
    with pytest.raises(CheckFailed, match=r"ONNX Runtime cannot run `toy\.onnx`"):
        OnnxSession(graph, CPU).run(feeds)
