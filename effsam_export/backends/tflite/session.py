"""A .tflite file in LiteRT's CPU runtime, in FP32 as a phone runs it or in FP16 for its GPU."""

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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ai_edge_litert import schema_py_generated as schema

    from effsam_export.spec.tensors import Feeds

FORCE_FP16 = 4
"""`TFLITE_XNNPACK_DELEGATE_FLAG_FORCE_FP16`. Source: LiteRT, `xnnpack_delegate.h`."""


class InterpreterSession:
    """One signature of a file in LiteRT's interpreter, with XNNPACK in FP32."""

    def __init__(self, path: Path, signature: str, num_threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._outputs = tflite_file.signature_outputs(tflite_file.read(path), signature)
        with quiet_runtime():
            interpreter = Interpreter(model_path=str(path), num_threads=num_threads)
            self._runner = interpreter.get_signature_runner(signature)

    def run(self, feeds: Feeds) -> Feeds:
        with quiet_runtime():
            results = self._runner(**{k: np.ascontiguousarray(v) for k, v in feeds.items()})
        # Copies: the arrays may lie in the interpreter's memory, which the next call overwrites.
        return {name: np.array(results[name]) for name in self._outputs}


class HalfSession:
    """One signature of a file in LiteRT's compiled model, with XNNPACK in FP16.

    As near to a GPU as a CPU comes: every value between operators is FP16, with its range and its
    rounding. Sums inside an operator are FP32 here, and FP16 on many GPUs.
    """

    def __init__(self, path: Path, signature: str, num_threads: int) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.options import Options as LitertOptions

        cpu = CpuOptions(num_threads=num_threads, xnnpack_flags=FORCE_FP16)
        self._signature = signature
        records = tflite_file.read(path)
        self._outputs = tflite_file.signature_outputs(records, signature)
        free_operands(records)
        # The runtime reads its constants from there as long as it lives.
        self._content = tflite_file.serialise(records)
        options = LitertOptions(cpu_options=cpu)
        with quiet_runtime():
            model = CompiledModel.from_buffer(self._content, options=options)
            details = model.get_output_tensor_details(signature)
        self._held: list[Any] = [model]
        weakref.finalize(self, let_go, self._held)
        # The runtime keeps an environment of its own until after the last line of Python.
        atexit.unregister(mute)
        atexit.register(mute)
        self._shapes = {n: tuple(int(d) for d in details[n]["shape"]) for n in self._outputs}

    def run(self, feeds: Feeds) -> Feeds:
        (model,), key = self._held, self._signature
        with quiet_runtime():
            inputs = {name: model.create_input_buffer_by_name(key, name) for name in feeds}
            outputs = {n: model.create_output_buffer_by_name(key, n) for n in self._outputs}
            for name, value in feeds.items():
                inputs[name].write(np.ascontiguousarray(value))
            model.run_by_name(key, inputs, outputs)
            found = {n: outputs[n].read(math.prod(s), np.float32) for n, s in self._shapes.items()}
            # Not left to the end of the call: the last one to let go of the runtime hears from it.
            del model, inputs, outputs
        return {n: np.array(found[n]).reshape(s) for n, s in self._shapes.items()}


def free_operands(model: schema.ModelT) -> None:
    """Put a RESHAPE that changes nothing behind every constant that BATCH_MATMUL takes.

    XNNPACK refuses a file whose stacks of matrices are constants when it computes in FP16.
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


def let_go(held: list[Any]) -> None:
    """Take a compiled model down; it reports that too."""
    with quiet_runtime():
        held.clear()


def mute() -> None:
    """Send what C++ still says while the process ends nowhere."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextmanager
def quiet_runtime() -> Iterator[None]:
    """Keep the runtime's own notes off the terminal; they are written by C++, past `sys.stderr`.

    What it said stays available where it matters: it is added to an error that is raised.
    """
    saved = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except (RuntimeError, ValueError) as error:
            notes.seek(0)
            said = notes.read().decode(errors="replace").strip()
            raise RuntimeError(f"{error}\n{said}" if said else str(error)) from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)
