"""Weights inside and outside an ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx
from onnx import helper, numpy_helper

from effsam_export.graph import onnx_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend


def model(value: float = 2.0) -> onnx.ModelProto:
    """y = x + w with a w of 4000 bytes, and a scalar that is not used."""
    weight = np.full(1000, value, dtype=np.float32)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", onnx.TensorProto.FLOAT, [1000])],
        [info("y", onnx.TensorProto.FLOAT, [1000])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(1), "eps")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def weights_of(path: Path) -> np.ndarray:
    tensors = {t.name: t for t in onnx.load(path).graph.initializer}
    return numpy_helper.to_array(tensors["w"])


def test_small_weights_stay_inside(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx_file.save(model(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    onnx_file.check(path)


def test_large_weights_go_outside_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx_file.save(model(3.0), path, max_inline=3999)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    assert path.stat().st_size < 1000
    assert (weights_of(path) == 3).all()
    onnx_file.check(path)


def test_both_forms_give_the_same_answer(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    x = np.arange(1000, dtype=np.float32)
    answers = []
    for name, limit in (("inside", 10_000), ("outside", 0)):
        path = tmp_path / f"{name}.onnx"
        onnx_file.save(model(), path, max_inline=limit)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"x": x})[0])
    np.testing.assert_array_equal(answers[0], answers[1])


def test_an_older_data_file_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    for value in (1.0, 5.0):
        onnx_file.save(model(value), path, max_inline=0)
    assert path.with_name("a.onnx.data").stat().st_size == 4000
    onnx_file.save(model(), path)
    assert not path.with_name("a.onnx.data").exists()


def test_a_broken_file_fails_the_check(tmp_path: Path) -> None:
    broken = model()
    broken.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "a.onnx"
    onnx_file.save(broken, path)
    with pytest.raises(onnx.checker.ValidationError):
        onnx_file.check(path)
