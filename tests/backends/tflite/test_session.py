"""Running a .tflite file in LiteRT on the CPU, in FP32 and in FP16."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
import torch
from torch import Tensor, nn

from effsam_export.backends.tflite import backend as tflite
from effsam_export.backends.tflite import file as tflite_file
from effsam_export.backends.tflite import session as tflite_session
from effsam_export.errors import CheckFailed
from tests.backends.tflite.tools import (
    COMPONENT,
    PROMPTS,
    WIDTH,
    HandMade,
    Layers,
    component,
    feeds,
    save_program,
    target,
)
from tests.graph.passes.tools import numbers

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Artifact

pytestmark = pytest.mark.backend

TARGETS = ("tflite", "android-gpu")


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The layers for a CPU and for a GPU, with FP16 weights."""
    graph = save_program(Layers(), COMPONENT, tmp_path_factory.mktemp("traced") / "decoder.pt2")
    return {
        name: tflite.lower(graph, target(name, "fp16"), tmp_path_factory.mktemp(name))
        for name in TARGETS
    }


def test_only_the_gpu_has_a_simulator() -> None:
    assert tflite.simulator({}) == ""
    assert tflite.simulator(target("tflite", "fp32").options) == ""
    assert tflite.simulator(target("android-cpu", "fp16").options) == ""
    gpu = target("android-gpu", "fp16").options
    assert tflite.simulator(gpu) == "LiteRT on the CPU, computing in FP16"


class Squares(nn.Module):
    """Overflows FP16 for inputs over 256."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * tokens + 0.25


@pytest.mark.parametrize(("name", "answer"), [("android-cpu", 90000.25), ("android-gpu", np.inf)])
def test_the_simulator_computes_in_fp16(name: str, answer: float, tmp_path: Path) -> None:
    spec = component({"tokens": (2, 4)}, {"squares": (2, 4)})
    weights = replace(target(name, "fp16"), precision="fp32")  # there is no weight to be halved
    graph = save_program(Squares(), spec, tmp_path / "decoder.pt2")
    monkey = pytest.MonkeyPatch()
    monkey.setattr(tflite, "check_precision", lambda *_: None)
    with monkey.context():
        artifact = tflite.lower(graph, weights, tmp_path)
    monkey.undo()
    found = tflite.open_session(artifact).run({"tokens": np.full((2, 4), 300, np.float32)})
    np.testing.assert_array_equal(found["squares"], np.full((2, 4), answer, np.float32))


class Stacks(nn.Module):
    """A product of a stack of matrices with a constant stack, as in a ViT's relative positions."""

    matrices: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrices", torch.from_numpy(numbers(14, 14, 14)))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens @ self.matrices


def test_the_simulator_runs_products_with_constant_stacks(tmp_path: Path) -> None:
    spec = component({"tokens": (14, 42, 14)}, {"products": (14, 42, 14)})
    graph = save_program(Stacks(), spec, tmp_path / "decoder.pt2")
    artifact = tflite.lower(graph, target("android-gpu", "fp16"), tmp_path)
    assert artifact.ops == {"BATCH_MATMUL": 1, "DEQUANTIZE": 1}
    before = artifact.files[0].read_bytes()
    tokens = numbers(14, 42, 14)
    found = tflite.open_session(artifact).run({"tokens": tokens})["products"]
    exact = tokens @ numbers(14, 14, 14)
    np.testing.assert_allclose(found, exact, atol=5e-3 * np.abs(exact).max())
    assert not np.array_equal(found, exact)
    assert artifact.files[0].read_bytes() == before


def test_only_constant_stacks_are_reshaped_for_the_simulator() -> None:
    made = HandMade()
    tokens = made.tensor("tokens", (2, 3, 4))
    half = made.tensor("half", (2, 4, 5), value=numbers(2, 4, 5))
    matrices, other = made.tensor("matrices", (2, 4, 5)), made.tensor("other", (2, 5, 3))
    first, second = made.tensor("first", (2, 3, 5)), made.tensor("second", (2, 3, 3))
    made.operator("DEQUANTIZE", [half], matrices)
    made.operator("BATCH_MATMUL", [tokens, matrices], first)
    made.operator("BATCH_MATMUL", [first, other], second)
    tflite_session.reshape_constant_operands(made.model)
    kinds = [tflite_file.operator_name(made.model, o) for o in made.graph.operators]
    assert kinds == ["DEQUANTIZE", "RESHAPE", "BATCH_MATMUL", "BATCH_MATMUL"]
    reshape, product, untouched = made.graph.operators[1:]
    assert reshape.inputs[0] == matrices
    assert product.inputs == [tokens, reshape.outputs[0]]
    assert untouched.inputs == [first, other]
    assert tflite_file.shape_of(made.graph.tensors[reshape.outputs[0]]) == (2, 4, 5)


@pytest.mark.parametrize("name", TARGETS)
def test_a_session_reports_its_signature(lowered: dict[str, Artifact], name: str) -> None:
    found = tflite.open_session(lowered[name]).signature()
    for tensors, specs in ((found.inputs, COMPONENT.inputs), (found.outputs, COMPONENT.outputs)):
        assert {(t.name, t.shape, t.dtype) for t in tensors} == {
            (s.name, s.shape, s.dtype) for s in specs
        }


@pytest.mark.parametrize("asked", ["nnapi", "coreml", "GPU", ""])
def test_a_delegate_that_would_be_the_cpu(lowered: dict[str, Artifact], asked: str) -> None:
    artifact = replace(lowered["tflite"], options={"delegate": asked})
    with pytest.raises(CheckFailed) as caught:
        tflite.open_session(artifact)
    assert caught.value.message == (
        f"the target asks LiteRT for delegate `{asked}`, and it would give `xnnpack`, the CPU"
    )


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x1c\0\0\0TFL3"], ids=repr)
def test_a_damaged_file(lowered: dict[str, Artifact], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "decoder.tflite"
    path.write_bytes(content)
    choices: tuple[dict[str, str], ...] = ({}, {"delegate": "gpu"})
    for options in choices:
        artifact = replace(lowered["tflite"], files=(path,), options=options)
        with pytest.raises(CheckFailed, match=r"`decoder\.tflite` "):
            tflite.open_session(artifact)


def test_a_file_of_another_component(lowered: dict[str, Artifact]) -> None:
    with pytest.raises(CheckFailed, match="has no signature `encoder`"):
        tflite.open_session(replace(lowered["tflite"], component="encoder"))


def test_number_of_threads_reaches_the_runtime(
    lowered: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Recorder:
        def __init__(self, path: Path, signature: str, num_threads: int) -> None:
            asked.append((path, signature, num_threads))

    monkeypatch.setattr(tflite, "InterpreterSession", Recorder)
    artifact = lowered["tflite"]
    tflite.open_session(replace(artifact, options={"num_threads": 3}))
    tflite.open_session(replace(artifact, options={}))
    tflite.open_session(replace(artifact, options={"num_threads": 3}), threads=2)
    assert asked == [(artifact.files[0], "decoder", n) for n in (3, 1, 2)]


@pytest.mark.parametrize("name", TARGETS)
def test_the_runtime_writes_nothing_to_stderr(
    lowered: dict[str, Artifact], name: str, tmp_path: Path
) -> None:
    given = feeds()
    np.savez(tmp_path / "feeds.npz", tokens=given["tokens"], flags=given["flags"])
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from effsam_export.backends.tflite import session as tflite_session\n"
        "session = getattr(tflite_session, sys.argv[1])(Path(sys.argv[2]), 'decoder', 1)\n"
        "print(session.run(dict(np.load(sys.argv[3])))['masks'].shape)\n"
    )
    kind = {"tflite": "InterpreterSession", "android-gpu": "Fp16Session"}[name]
    ran = subprocess.run(
        [sys.executable, "-c", code, kind, lowered[name].files[0], tmp_path / "feeds.npz"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ran.stdout, ran.stderr) == (f"({PROMPTS}, {WIDTH})\n", "")


def test_runtime_output_is_part_of_its_error() -> None:
    def fail() -> None:
        with tflite_session.quiet_runtime():
            os.write(2, b"node 3 is wrong\n")
            raise ValueError("failed to prepare")

    with pytest.raises(RuntimeError, match=r"^failed to prepare\nnode 3 is wrong$"):
        fail()
