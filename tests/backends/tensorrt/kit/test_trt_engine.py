"""Running an engine with numpy arrays: order, shapes, memory and errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from effsam_export.backends.tensorrt.kit import trt_engine
from effsam_export.backends.tensorrt.kit.trt_engine import Engine, Gpu, GpuError
from tests.backends.tensorrt import fake_tensorrt
from tests.backends.test_contract import feeds, wanted, write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend


@pytest.fixture(autouse=True)
def fresh() -> None:
    fake_tensorrt.reset()
    fake_tensorrt.MEMORY.clear()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """The contract's graph on the fake GPU."""
    path = write_graph(tmp_path / "decoder.onnx").path
    plan = json.dumps({"onnx": str(path)}).encode()
    return Engine(fake_tensorrt, plan, Gpu(fake_tensorrt.Driver()))


def test_inputs_and_outputs_are_distinguished_by_mode(engine: Engine) -> None:
    assert sorted(engine.inputs) == ["flags", "tokens"]
    assert sorted(engine.outputs) == ["iou", "masks"]


@pytest.mark.parametrize("prompts", [1, 3, 16])
def test_numbers(engine: Engine, prompts: int) -> None:
    found = engine.run(feeds(prompts))
    for name, value in wanted(feeds(prompts)).items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_sizes_change_from_call_to_call(engine: Engine) -> None:
    assert [engine.run(feeds(n))["masks"].shape[0] for n in (4, 1, 2)] == [4, 1, 2]


def test_inputs_are_cast_to_the_dtype_of_the_engine(engine: Engine) -> None:
    given = feeds(3)
    strange: dict[str, Any] = {
        "flags": given["flags"].astype(np.float64),
        "tokens": np.asfortranarray(given["tokens"]),
    }
    np.testing.assert_array_equal(engine.run(strange)["masks"], engine.run(given)["masks"])


def test_memory_is_freed(engine: Engine) -> None:
    engine.run(feeds(2))
    assert fake_tensorrt.MEMORY == {}


def test_memory_is_freed_when_the_engine_does_not_run(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_tensorrt.Context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(GpuError, match=r"^the engine did not run$"):
        engine.run(feeds(2))
    assert fake_tensorrt.MEMORY == {}


def test_all_wrong_inputs_are_named_at_once(engine: Engine) -> None:
    with pytest.raises(GpuError) as caught:
        engine.run({"tokens": np.zeros((2, 47), np.float32), "flag": np.zeros(2, np.float32)})
    assert str(caught.value) == (
        "the input `flags` is missing; the engine has no input `flag`; "
        "`tokens` cannot have the shape [2, 47]"
    )


def test_engine_of_another_machine(tmp_path: Path) -> None:
    with pytest.raises(GpuError) as caught:
        Engine(fake_tensorrt, b"ftrt", Gpu(fake_tensorrt.Driver()))
    assert str(caught.value) == (
        "the engine cannot be opened: it was built by another TensorRT version or for another "
        "GPU; build it on this machine"
    )


@pytest.mark.parametrize(("numbers", "found"), [((8, 7), 87), ((12, 0), 120)])
def test_compute_capability(numbers: tuple[int, int], found: int) -> None:
    assert Gpu(fake_tensorrt.Driver(capability=numbers)).capability == found


def test_driver_without_a_gpu() -> None:
    with pytest.raises(GpuError, match=r"^the driver finds no GPU$"):
        Gpu(fake_tensorrt.Driver(count=0))


def test_call_that_fails_is_named() -> None:
    driver = fake_tensorrt.Driver()
    driver.fails = "cuInit"
    with pytest.raises(GpuError, match=r"^cuInit failed with CUDA error 2$"):
        Gpu(driver)


def test_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_engine, "DRIVERS", ("libno-such-driver.so",))
    with pytest.raises(GpuError, match=r"^there is no NVIDIA driver \(libno-such-driver\.so\)$"):
        trt_engine.load_driver()
    assert trt_engine.capability() is None


def test_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_engine, "load_driver", fake_tensorrt.Driver)
    assert trt_engine.capability() == 87


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        ({"Datatype": "Half", "Format": "(Linear) Row major linear format"}, "float16"),
        ({"Format/Datatype": "Row major linear FP32"}, "float32"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "float16"),
        ({"Format/Datatype": "Four wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, "unknown"),
        ({"Name": "t"}, "unknown"),
    ],
)
def test_dtype_of_a_tensor(tensor: dict[str, str], dtype: str) -> None:
    assert trt_engine.dtype_of(tensor) == dtype


def test_layers(engine: Engine) -> None:
    assert engine.layers() == [{"name": "fused", "kind": "kgen", "outputs": ["float16"]}]


def test_layer_without_detailed_profiling() -> None:
    assert trt_engine.layer_of("conv1") == {"name": "conv1", "kind": "unknown", "outputs": []}
