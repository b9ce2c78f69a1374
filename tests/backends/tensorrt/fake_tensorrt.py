"""A fake of `tensorrt` and of the CUDA driver, to test code that needs a device.

It records the calls of the kit and computes with ONNX Runtime. Tests copy it as `tensorrt.py` to
the scripts, or put it into `sys.modules`, so it imports nothing from the tests.
"""

# ruff: noqa: ANN401  (an SDK without types)
from __future__ import annotations

import ctypes
import enum
import json
from pathlib import Path
from typing import Any

import numpy as np

__version__ = "10.3.0"
CALLS: list[tuple[Any, ...]] = []
FAULTS: list[tuple[str, str, str]] = []
"""Errors of the parser: node, operator, description."""
SETTINGS: dict[str, Any] = {"engine": True, "layers": "Half"}
"""`engine`: whether the builder succeeds; `layers`: the dtype in the inspector."""


def reset() -> None:
    """Forget every call and every fault."""
    CALLS.clear()
    FAULTS.clear()
    SETTINGS.update(engine=True, layers="Half")


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


class BuilderFlag(enum.Enum):
    FP16 = 0
    TF32 = 7


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class LayerInformationFormat(enum.Enum):
    JSON = 1


class ILogger:
    WARNING = "warning"
    ERROR = "error"
    INTERNAL_ERROR = "internal error"


class Logger(ILogger):
    def __init__(self, severity: str) -> None:
        self.severity = severity


class Config:
    profiling_verbosity: ProfilingVerbosity | None = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        CALLS.append(("clear_flag", flag.name))

    def set_flag(self, flag: BuilderFlag) -> None:
        CALLS.append(("set_flag", flag.name))

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        CALLS.append(("set_memory_pool_limit", pool.name, size))

    def add_optimization_profile(self, profile: Profile) -> int:
        CALLS.append(("add_optimization_profile", dict(profile.shapes)))
        return 0


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, minimum: Any, opt: Any, maximum: Any) -> None:
        self.shapes[name] = (minimum, opt, maximum)


class Network:
    path = ""


class Builder:
    def __init__(self, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)

    def create_network(self, flags: int = 0) -> Network:
        CALLS.append(("create_network", flags))
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        CALLS.append(("build_serialized_network", config.profiling_verbosity))
        return json.dumps({"onnx": network.path}).encode() if SETTINGS["engine"] else None


class Fault:
    def __init__(self, node: str, op: str, description: str) -> None:
        self.node_name = lambda: node
        self.node_operator = lambda: op
        self.desc = lambda: description


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network = network

    @property
    def num_errors(self) -> int:
        return len(FAULTS)

    def get_error(self, index: int) -> Fault:
        return Fault(*FAULTS[index])

    def parse_from_file(self, path: str) -> bool:
        assert Path(path).is_file()
        self._network.path = path
        return not FAULTS


def nptype(dtype: str) -> Any:
    return np.dtype(dtype).type


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        del logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        return Engine(json.loads(plan)["onnx"]) if plan.startswith(b"{") else None


class Engine:
    """An engine whose arithmetic is ONNX Runtime's."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        self.session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        # Outputs first: nothing may rely on an order.
        self.ports = [*self.session.get_outputs(), *self.session.get_inputs()]
        self.input_names = {i.name for i in self.session.get_inputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self.ports)

    def get_tensor_name(self, index: int) -> str:
        return str(self.ports[index].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.input_names else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        port = next(p for p in self.ports if p.name == name)
        return tuple(-1 if isinstance(size, str) else size for size in port.shape)

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> Engine:
        return self

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        assert form is LayerInformationFormat.JSON
        outputs = [{"Name": "t", "Format/Datatype": SETTINGS["layers"]}]
        layers = [{"Name": "fused", "LayerType": "kgen", "Outputs": outputs}]
        return json.dumps({"Layers": layers})


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._results: dict[str, Any] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        port = next(p for p in self._engine.ports if p.name == name)
        return len(port.shape) == len(shape) and all(
            isinstance(want, str) or want == given
            for want, given in zip(port.shape, shape, strict=True)
        )

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        port = next(p for p in self._engine.ports if p.name == name)
        sizes = {
            axis: size
            for p in self._engine.ports
            if p.name in self._shapes
            for axis, size in zip(p.shape, self._shapes[p.name], strict=True)
            if isinstance(axis, str)
        }
        return tuple(sizes[s] if isinstance(s, str) else s for s in port.shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {
            n: np.frombuffer(MEMORY[self._addresses[n]], np.float32).reshape(s)
            for n, s in self._shapes.items()
        }
        names = [o.name for o in self._engine.session.get_outputs()]
        for name, value in zip(names, self._engine.session.run(None, feeds), strict=True):
            MEMORY[self._addresses[name]][:] = np.ascontiguousarray(value).tobytes()
        return True


MEMORY: dict[int, bytearray] = {}
"""Memory of the fake GPU by address, without freed addresses."""


class Driver:
    """The calls of the CUDA driver, on memory of this process.

    Attributes:
        fails: Name of a call that returns an error.
    """

    def __init__(self, count: int = 1, capability: tuple[int, int] = (8, 7)) -> None:
        self.count, self.capability, self.fails = count, capability, ""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu") and name == object.__getattribute__(self, "fails"):
            return lambda *_: 2
        return object.__getattribute__(self, name)

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = self.count
        return 0

    def cuDeviceGet(self, out: Any, index: int) -> int:
        out._obj.value = index
        return 0

    def cuDeviceGetAttribute(self, out: Any, number: int, device: Any) -> int:
        out._obj.value = {75: self.capability[0], 76: self.capability[1]}[number]
        return 0

    def cuDevicePrimaryCtxRetain(self, out: Any, device: Any) -> int:
        out._obj.value = 1
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:
        return 0

    def cuCtxSynchronize(self) -> int:
        return 0

    def cuMemAlloc_v2(self, out: Any, size: Any) -> int:
        # Past 32 bits, as real addresses are.
        address = (1 << 40) + 256 * (len(MEMORY) + 1)
        while address in MEMORY:
            address += 256
        MEMORY[address] = bytearray(size.value)
        out._obj.value = address
        return 0

    def cuMemFree_v2(self, address: Any) -> int:
        del MEMORY[address.value]
        return 0

    def cuMemcpyHtoD_v2(self, address: Any, host: Any, size: Any) -> int:
        MEMORY[address.value][:] = ctypes.string_at(host, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, host: Any, address: Any, size: Any) -> int:
        ctypes.memmove(host, bytes(MEMORY[address.value]), size.value)
        return 0
