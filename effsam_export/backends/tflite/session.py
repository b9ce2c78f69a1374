"""Run a .tflite file in LiteRT on the CPU, in FP32 or, to simulate a GPU, in FP16."""

from __future__ import annotations

import atexit
import math
import os
import sys
import tempfile
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.backends.tflite import file as tflite_file
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    from effsam_export.spec.tensors import Feeds, Signature

FORCE_FP16 = 4
"""`TFLITE_XNNPACK_DELEGATE_FLAG_FORCE_FP16`. Source: LiteRT, `xnnpack_delegate.h`."""


class InterpreterSession:
    """A signature of a file in LiteRT's interpreter; XNNPACK computes in FP32."""

    def __init__(self, path: Path, signature: str, num_threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        records = read(path, signature)
        self._reported = tflite_file.reported(records, signature)
        self._outputs = tflite_file.signature_outputs(records, signature)
        with quiet_runtime():
            interpreter = Interpreter(model_path=str(path), num_threads=num_threads)
            self._runner = interpreter.get_signature_runner(signature)

    def run(self, feeds: Feeds) -> Feeds:
        with quiet_runtime():
            results = self._runner(**{k: np.ascontiguousarray(v) for k, v in feeds.items()})
        # Copies: the arrays may lie in the interpreter's memory, which the next call overwrites.
        return {name: np.array(results[name]) for name in self._outputs}

    def signature(self) -> Signature:
        return self._reported


class Fp16Session:
    """A signature of a file in LiteRT's compiled model; XNNPACK computes in FP16.

    It simulates a GPU: every value between operators is rounded to FP16 and may overflow. Sums
    inside an operator depend on the CPU. With AVX512-FP16, matrix products and convolutions sum in
    FP16, as on many GPUs.
    """

    def __init__(self, path: Path, signature: str, num_threads: int) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.options import Options as LitertOptions

        cpu = CpuOptions(num_threads=num_threads, xnnpack_flags=FORCE_FP16)
        self._signature = signature
        records = read(path, signature)
        self._reported = tflite_file.reported(records, signature)
        self._outputs = tflite_file.signature_outputs(records, signature)
        reshape_constant_operands(records)
        # Stored, because the runtime reads constants from these bytes.
        self._content = tflite_file.serialise(records)
        options = LitertOptions(cpu_options=cpu)
        with quiet_runtime():
            model = CompiledModel.from_buffer(self._content, options=options)
            details = model.get_output_tensor_details(signature)
        self._models: list[Any] = [model]
        weakref.finalize(self, close_model, self._models)
        # The runtime frees its environment, and logs that, after Python has ended.
        atexit.unregister(mute_stderr)
        atexit.register(mute_stderr)
        self._shapes = {n: tuple(int(d) for d in details[n]["shape"]) for n in self._outputs}

    def run(self, feeds: Feeds) -> Feeds:
        (model,), key = self._models, self._signature
        with quiet_runtime():
            inputs = {name: model.create_input_buffer_by_name(key, name) for name in feeds}
            outputs = {n: model.create_output_buffer_by_name(key, n) for n in self._outputs}
            for name, value in feeds.items():
                inputs[name].write(np.ascontiguousarray(value))
            model.run_by_name(key, inputs, outputs)
            found = {n: outputs[n].read(math.prod(s), np.float32) for n, s in self._shapes.items()}
            # Deleted here, because freeing them logs to stderr.
            del model, inputs, outputs
        return {n: np.array(found[n]).reshape(s) for n, s in self._shapes.items()}

    def signature(self) -> Signature:
        return self._reported


def read(path: Path, signature: str) -> schema.ModelT:
    """Read a file that has a signature of this name.

    Raises:
        CheckFailed: It is no .tflite file, or has no such signature.
    """
    try:
        records = tflite_file.read(path)
        found = tflite_file.signature_of(records, signature)
    except Exception as error:
        raise CheckFailed(f"`{path.name}` is not a readable .tflite file") from error
    if found is None:
        raise CheckFailed(f"`{path.name}` has no signature `{signature}`")
    return records


def reshape_constant_operands(model: schema.ModelT) -> None:
    """Add a RESHAPE to the same shape after every constant operand of BATCH_MATMUL.

    XNNPACK in FP16 does not load a file in which an operand of BATCH_MATMUL is a constant.
    """
    for graph in model.subgraphs:
        constants = {
            index
            for index, tensor in enumerate(graph.tensors)
            if model.buffers[tensor.buffer].data is not None
        }
        operators = []
        for operator in graph.operators:
            kind = tflite_file.operator_name(model, operator)
            if kind == "DEQUANTIZE" and operator.inputs[0] in constants:
                constants.add(operator.outputs[0])
            for i, index in enumerate(operator.inputs):
                if kind == "BATCH_MATMUL" and index in constants:
                    shape = tflite_file.shape_of(graph.tensors[index])
                    reshape = tflite_file.add_reshape(model, graph, index, shape)
                    operator.inputs[i] = reshape.outputs[0]
                    operators.append(reshape)
            operators.append(operator)
        graph.operators = operators


def close_model(models: list[Any]) -> None:
    """Free a compiled model without its log messages."""
    with quiet_runtime():
        models.clear()


def mute_stderr() -> None:
    """Discard what C++ writes to stderr while the process ends."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextmanager
def quiet_runtime() -> Iterator[None]:
    """Suppress what the runtime's C++ code writes to stderr.

    An error that is raised meanwhile gets the suppressed text appended to its message.
    """
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except (RuntimeError, ValueError) as error:
            log.seek(0)
            text = log.read().decode(errors="replace").strip()
            raise RuntimeError(f"{error}\n{text}" if text else str(error)) from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)
