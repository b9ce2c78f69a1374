"""Behaviour of every backend in every precision, on a small graph."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("onnx")
import onnx
from onnx import TensorProto, helper, numpy_helper

from effsam_export import backends
from effsam_export.backends.onnx.backend import fp32_constant_elements
from effsam_export.config import targets as profiles
from effsam_export.errors import CheckFailed
from effsam_export.graph.passes import cast_fp16
from effsam_export.spec.model import ComponentSpec
from effsam_export.spec.stages import Artifact, Graph
from effsam_export.spec.tensors import ReportedTensor, Signature, TensorSpec
from tests.graph.passes.tools import Array, numbers

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.targets import Precision, TargetProfile
    from effsam_export.spec.tensors import Feeds

pytestmark = pytest.mark.backend

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2}
WIDTH = 48
WEIGHT = numbers(WIDTH, WIDTH) / 7


def unused(*_: object) -> object:
    raise AssertionError("a backend needs only names and shapes")


# Two inputs and two outputs, in an order that is not the alphabet's.
COMPONENT = ComponentSpec(
    name="decoder",
    inputs=(
        TensorSpec(name="tokens", shape=("prompts", WIDTH)),
        TensorSpec(name="flags", shape=("prompts",)),
    ),
    outputs=(
        TensorSpec(name="masks", shape=("prompts", WIDTH)),
        TensorSpec(name="iou", shape=("prompts",)),
    ),
    wrap=unused,  # type: ignore[arg-type]
    example=unused,  # type: ignore[arg-type]
    feeds=unused,  # type: ignore[arg-type]
    reference=unused,  # type: ignore[arg-type]
)


def wanted(feeds: Feeds) -> dict[str, Array]:
    """Compute the outputs of the graph in numpy."""
    masks = np.tanh(feeds["tokens"] @ WEIGHT) * feeds["flags"][:, None]
    return {"masks": masks, "iou": masks.sum(axis=1)}


def feeds(prompts: int) -> dict[str, Array]:
    flags = np.linspace(0.5, 1, prompts, dtype=np.float32)
    return {"tokens": numbers(prompts, WIDTH), "flags": flags}


def write_graph(path: Path) -> Graph:
    values = [
        helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape)
        for t in (*COMPONENT.inputs, *COMPONENT.outputs)
    ]
    nodes = [
        helper.make_node("MatMul", ["tokens", "weight"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["act"]),
        helper.make_node("Unsqueeze", ["flags", "last"], ["column"]),
        helper.make_node("Mul", ["act", "column"], ["masks"]),
        helper.make_node("ReduceSum", ["masks", "last"], ["iou"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(WEIGHT, "weight"),
        numpy_helper.from_array(np.array([-1]), "last"),
    ]
    graph = helper.make_graph(nodes, "layers", values[:2], values[2:], initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return Graph(component=COMPONENT, path=path, opset=18)


def target(backend: str, precision: Precision) -> TargetProfile:
    """A shipped target of the backend, in that precision."""
    shipped = (profiles.load_target(name) for name in profiles.target_names())
    return replace(next(t for t in shipped if t.backend == backend), precision=precision)


def lower(backend: str, precision: Precision, folder: Path) -> Artifact:
    """Lower the graph, from `folder/decoder.onnx`, into `folder/out`."""
    pytest.importorskip(backends.BACKENDS[backend].packages[0])
    out = folder / "out"
    out.mkdir(parents=True)
    graph = write_graph(folder / "decoder.onnx")
    return backends.load(backend).lower(graph, target(backend, precision), out)


every_backend = pytest.mark.parametrize("backend", ["onnx", "openvino"])
"""Backends that lower from an ONNX file; the others have separate tests."""

every_precision = pytest.mark.parametrize("precision", PRECISIONS)


@every_precision
@every_backend
def test_fields_of_the_artifact(backend: str, precision: Precision, tmp_path: Path) -> None:
    artifact = lower(backend, precision, tmp_path)
    assert (artifact.component, artifact.backend) == ("decoder", backend)
    assert artifact.precision == precision
    assert artifact.options == target(backend, precision).options
    assert backends.BACKENDS[backend].packages[0] in artifact.versions
    assert all(artifact.versions.values())


@every_precision
@every_backend
def test_files_are_those_in_the_folder(backend: str, precision: Precision, tmp_path: Path) -> None:
    artifact = lower(backend, precision, tmp_path)
    assert sorted(artifact.files) == sorted((tmp_path / "out").iterdir())
    assert {f.stem for f in artifact.files} == {"decoder"}


@every_precision
@every_backend
def test_receipt(backend: str, precision: Precision, tmp_path: Path) -> None:
    found = lower(backend, precision, tmp_path).tensors_by_dtype
    dtype = {"fp32": "float32", "fp16": "float16"}[precision]
    assert found[dtype] >= WEIGHT.size
    assert sum(n for k, n in found.items() if "float" in k and k != dtype) <= 4


@every_precision
@every_backend
@pytest.mark.parametrize("prompts", [1, 2, 7])
def test_numbers_names_and_dtypes(
    backend: str, precision: Precision, prompts: int, tmp_path: Path
) -> None:
    session = backends.load(backend).open_session(lower(backend, precision, tmp_path))
    found = session.run(feeds(prompts))
    assert list(found) == [t.name for t in COMPONENT.outputs]
    for name, value in wanted(feeds(prompts)).items():
        assert found[name].dtype == np.float32
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, atol=TOLERANCE[precision])


def signature_of(component: ComponentSpec) -> Signature:
    """The signature that a session of a component has to report."""

    def reported(tensors: tuple[TensorSpec, ...]) -> tuple[ReportedTensor, ...]:
        return tuple(
            ReportedTensor(
                name=t.name,
                shape=tuple(None if isinstance(n, str) else n for n in t.shape),
                dtype=t.dtype,
            )
            for t in tensors
        )

    return Signature(inputs=reported(component.inputs), outputs=reported(component.outputs))


@every_precision
@every_backend
def test_a_session_reports_its_signature(
    backend: str, precision: Precision, tmp_path: Path
) -> None:
    session = backends.load(backend).open_session(lower(backend, precision, tmp_path))
    assert session.signature() == signature_of(COMPONENT)


@every_backend
def test_one_session_runs_several_sizes(backend: str, tmp_path: Path) -> None:
    session = backends.load(backend).open_session(lower(backend, "fp32", tmp_path))
    for prompts in (3, 1, 5):
        found = session.run(feeds(prompts))
        np.testing.assert_allclose(found["masks"], wanted(feeds(prompts))["masks"], atol=1e-5)


@every_backend
def test_outputs_are_not_overwritten_by_the_next_run(backend: str, tmp_path: Path) -> None:
    session = backends.load(backend).open_session(lower(backend, "fp32", tmp_path))
    first = session.run(feeds(2))["masks"]
    before = first.copy()
    session.run({k: -v for k, v in feeds(2).items()})
    np.testing.assert_array_equal(first, before)


@every_precision
@every_backend
def test_opens_from_another_folder(backend: str, precision: Precision, tmp_path: Path) -> None:
    artifact = lower(backend, precision, tmp_path)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    (tmp_path / "decoder.onnx").unlink()
    moved = replace(artifact, files=tuple(tmp_path / "moved" / f.name for f in artifact.files))
    found = backends.load(backend).open_session(moved).run(feeds(2))
    np.testing.assert_allclose(found["masks"], wanted(feeds(2))["masks"], atol=TOLERANCE[precision])


@every_precision
@every_backend
def test_equal_bytes_every_time(backend: str, precision: Precision, tmp_path: Path) -> None:
    one, two = (lower(backend, precision, tmp_path / name) for name in ("one", "two"))
    assert [f.read_bytes() for f in one.files] == [f.read_bytes() for f in two.files]


@every_precision
@every_backend
def test_the_graph_is_not_changed(backend: str, precision: Precision, tmp_path: Path) -> None:
    lower(backend, precision, tmp_path)
    again = write_graph(tmp_path / "again.onnx")
    assert (tmp_path / "decoder.onnx").read_bytes() == again.path.read_bytes()


def leave_onnx_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    from effsam_export.graph.passes import cast_fp16

    monkeypatch.setattr(cast_fp16, "apply", lambda model, keep: model)


def leave_openvino_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    save = openvino.save_model

    def uncompressed(model: openvino.Model, path: str, *, compress_to_fp16: bool) -> None:
        assert compress_to_fp16
        save(model, path, compress_to_fp16=False)

    monkeypatch.setattr(openvino, "save_model", uncompressed)


SABOTAGE = {"onnx": leave_onnx_in_fp32, "openvino": leave_openvino_in_fp32}


@every_backend
def test_a_file_that_stayed_fp32_is_refused(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip(backends.BACKENDS[backend].packages[0])
    SABOTAGE[backend](monkeypatch)
    with pytest.raises(CheckFailed) as caught:
        lower(backend, "fp16", tmp_path)
    assert caught.value.message == (
        f"decoder: the precision is fp16, but the file holds {WEIGHT.size} float32 "
        "(0.00% float16, minimum 99%)"
    )


def test_fp32_constants_of_a_recipe_are_counted(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "decoder.onnx").path
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = f"node_{node.op_type}"
    onnx.save(cast_fp16.apply(model, keep=["node_MatMul"]), path)
    assert fp32_constant_elements(path, ("node_MatMul", "node_Tanh")) == WEIGHT.size
    assert fp32_constant_elements(path, ("node_Tanh",)) == 0
    onnx.save(cast_fp16.apply(model), path)
    assert fp32_constant_elements(path, ("node_MatMul",)) == 0
