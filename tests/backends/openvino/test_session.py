"""OpenVINO runs a graph on the asked device, or says which one it would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from effsam_export.errors import CheckFailed
from effsam_export.spec.tensors import ReportedTensor
from tests.graph.passes.tools import parse

if TYPE_CHECKING:
    from pathlib import Path

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.backend


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x + x for any number of rows."""
    path = tmp_path / "toy.onnx"
    onnx.save(parse("toy (float[rows, 3] x) => (float[rows, 3] y) { y = Add(x, x) }"), path)
    return path


@pytest.mark.parametrize("device", ["CPU", "AUTO:CPU", "HETERO:CPU", "MULTI:CPU"])
def test_the_asked_device_runs(graph: Path, device: str) -> None:
    from effsam_export.backends.openvino.session import OpenvinoSession

    session = OpenvinoSession(graph, device, "f32")
    assert session.run({"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[2.0] * 3] * 2
    signature = session.signature()
    assert signature.inputs == (ReportedTensor(name="x", shape=(None, 3), dtype="float32"),)
    assert signature.outputs == (ReportedTensor(name="y", shape=(None, 3), dtype="float32"),)


@pytest.mark.parametrize("device", ["GPU.7", "", "cpu", "nonsense", "AUTO:nonsense"])
def test_a_device_that_is_not_here(graph: Path, device: str) -> None:
    from effsam_export.backends.openvino.session import OpenvinoSession

    with pytest.raises(CheckFailed) as caught:
        OpenvinoSession(graph, device, "f32")
    assert f"cannot compile `toy.onnx` for device `{device}`" in caught.value.message
    assert "Exception from" not in caught.value.message
    assert caught.value.hint is not None
    assert "`CPU`" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not a graph", b"<net>"], ids=repr)
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    from effsam_export.backends.openvino.session import OpenvinoSession

    (tmp_path / "toy.xml").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"OpenVINO cannot compile `toy\.xml`"):
        OpenvinoSession(tmp_path / "toy.xml", "CPU", "f32")


def test_number_of_threads_reaches_the_runtime(graph: Path) -> None:
    from effsam_export.backends.openvino.session import OpenvinoSession

    session = OpenvinoSession(graph, "CPU", "f32", 1)
    assert session._model.get_property("INFERENCE_NUM_THREADS") == 1


def test_other_inputs(graph: Path) -> None:
    from effsam_export.backends.openvino.session import OpenvinoSession

    session = OpenvinoSession(graph, "CPU", "f32")
    with pytest.raises(CheckFailed, match=r"OpenVINO cannot run `toy\.onnx`"):
        session.run({"z": np.ones((2, 3), np.float32)})


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("GPU", ["GPU.0"]),
        ("GPU.1", ["GPU.1"]),
        ("AUTO", ["CPU"]),
        ("AUTO", ["GPU.0"]),
        ("AUTO:GPU,CPU", ["CPU"]),
        ("AUTO:-GPU", ["CPU"]),
        ("MULTI:GPU(4),CPU(2)", ["GPU.0", "CPU"]),
        ("HETERO:GPU,CPU", ["GPU.0", "CPU"]),
        ("BATCH:GPU(8)", ["GPU.0"]),
    ],
)
def test_allowed_devices(asked: str, given: list[str]) -> None:
    from effsam_export.backends.openvino.session import check_device

    check_device(asked, given)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("GPU", ["CPU"]),
        ("GPU", ["GPU.0", "CPU"]),
        ("GPU.1", ["GPU.0"]),
        ("GPU.1", ["GPU.10"]),
        ("GPU", []),
        ("AUTO", []),
        ("AUTO:GPU", ["CPU"]),
        ("AUTO:-CPU", ["CPU"]),
        ("MULTI:GPU,NPU", ["CPU"]),
        ("BATCH:GPU(8)", ["CPU"]),
    ],
)
def test_other_devices(asked: str, given: list[str]) -> None:
    from effsam_export.backends.openvino.session import check_device

    with pytest.raises(CheckFailed) as caught:
        check_device(asked, given)
    assert f"asks OpenVINO for device `{asked}`, and it gives" in caught.value.message
    assert all(f"`{name}`" in caught.value.message for name in given)


def test_brackets_of_a_device_that_starts_for_another() -> None:
    from effsam_export.backends.openvino.session import execution_devices

    class Compiled:
        def get_property(self, name: str) -> str:
            assert name == "EXECUTION_DEVICES"
            return "(CPU)"

    assert execution_devices(Compiled()) == ["CPU"]
