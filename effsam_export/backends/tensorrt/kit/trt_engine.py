"""Run a TensorRT engine: numpy in, numpy out. Needs `tensorrt`, numpy and the GPU's driver.

The driver is called through ctypes, so no CUDA package has to be installed. Works with the Python
packages `tensorrt` (8.5 to 11) and `tensorrt_rtx`; the caller passes the module.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import sys
from typing import Any

import numpy as np

DRIVERS = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver API (`cuda.h`)."""


DTYPES = {
    # Name of a dtype in the engine inspector of any version -> numpy name
    "FP32": "float32",
    "Float": "float32",
    "FP16": "float16",
    "Half": "float16",
    "BF16": "bfloat16",
    "BFloat16": "bfloat16",
    "INT8": "int8",
    "Int8": "int8",
    "INT32": "int32",
    "Int32": "int32",
    "INT64": "int64",
    "Int64": "int64",
    "Bool": "bool",
}


class GpuError(RuntimeError):
    """A call of the driver failed, or there is no driver or GPU."""


class Gpu:
    """The first GPU, through the CUDA driver API.

    Attributes:
        capability: Compute capability as TensorRT writes it, 87 for 8.7.
    """

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver or load_driver()
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value < 1:
            raise GpuError("the driver finds no GPU")
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self.capability = 10 * self._attribute(MAJOR, device) + self._attribute(MINOR, device)
        # TensorRT uses the primary context too.
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise GpuError(f"{name} failed with CUDA error {code}")

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes of device memory and return their address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return address.value

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Any) -> None:
        """Copy a C-ordered array to the device."""
        data = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data, ctypes.c_size_t(array.nbytes))

    def download(self, address: int, array: Any) -> None:
        """Fill a C-ordered array from the device."""
        data = ctypes.c_void_p(array.ctypes.data)
        self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        self._call("cuCtxSynchronize")


def layer_of(entry: Any) -> dict[str, Any]:
    """Return name, kind and output dtypes of a layer in the inspector's JSON.

    Without detailed profiling the entry is only a name.
    """
    if isinstance(entry, str):
        return {"name": entry, "kind": "unknown", "outputs": []}
    outputs = [dtype_of(t) for t in entry.get("Outputs", [])]
    return {"name": entry["Name"], "kind": entry.get("LayerType", "unknown"), "outputs": outputs}


def dtype_of(tensor: dict[str, Any]) -> str:
    """Return the dtype of a tensor in the inspector's JSON; version 10 has it in the format."""
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
    found = [DTYPES[w] for w in re.findall(r"\w+", text) if w in DTYPES]
    return found[0] if found else "unknown"


def load_driver() -> Any:
    """Load the library of the NVIDIA driver.

    Raises:
        GpuError: The library is missing.
    """
    for name in DRIVERS:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise GpuError(f"there is no NVIDIA driver ({', '.join(DRIVERS)})")


def capability() -> int | None:
    """Return the compute capability of the first GPU, or None without a GPU."""
    try:
        return Gpu().capability
    except GpuError:
        return None


class Engine:
    """An engine loaded on the GPU.

    Attributes:
        inputs, outputs: Names, in the order of the engine.
    """

    def __init__(self, trt: Any, plan: bytes, gpu: Gpu | None = None, logger: Any = None) -> None:
        self._trt = trt
        self._gpu = gpu or Gpu()
        self._logger = logger or trt.Logger(trt.Logger.WARNING)
        # Stored, because the engine must not outlive it.
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise GpuError(
                "the engine cannot be opened: it was built by another TensorRT version or for "
                "another GPU; build it on this machine"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        kind = trt.TensorIOMode.INPUT
        self.inputs = [n for n in names if self._engine.get_tensor_mode(n) == kind]
        self.outputs = [n for n in names if n not in self.inputs]

    def layers(self) -> list[dict[str, Any]]:
        """Return name, kind and output dtypes of every layer, from the engine inspector."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return [layer_of(entry) for entry in json.loads(text)["Layers"]]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the numpy dtype of an input or output."""
        found: np.dtype[Any] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an input or output; -1 is a dynamic axis."""
        return tuple(int(n) for n in self._engine.get_tensor_shape(name))

    def run(self, feeds: Any) -> dict[str, Any]:
        """Run once on inputs by name; return the outputs by name.

        Raises:
            GpuError: An input is missing, unknown, or outside the engine's shape range.
        """
        given = {
            n: np.ascontiguousarray(feeds[n], self.dtype(n)) for n in self.inputs if n in feeds
        }
        problems = [f"the input `{n}` is missing" for n in self.inputs if n not in feeds]
        problems += [f"the engine has no input `{n}`" for n in feeds if n not in self.inputs]
        for name, array in given.items():
            if not self._context.set_input_shape(name, array.shape):
                problems.append(f"`{name}` cannot have the shape {list(array.shape)}")
        if problems:
            raise GpuError("; ".join(problems))
        results = {
            n: np.empty(tuple(self._context.get_tensor_shape(n)), self.dtype(n))
            for n in self.outputs
        }
        addresses = {}
        try:
            for name, array in [*given.items(), *results.items()]:
                addresses[name] = self._gpu.allocate(array.nbytes)
                self._context.set_tensor_address(name, addresses[name])
            for name, array in given.items():
                self._gpu.upload(addresses[name], array)
            # Stream 0: every copy above is ordered before it.
            if not self._context.execute_async_v3(0):
                raise GpuError("the engine did not run")
            self._gpu.synchronize()
            for name, array in results.items():
                self._gpu.download(addresses[name], array)
        finally:
            for address in addresses.values():
                self._gpu.free(address)
        return results
