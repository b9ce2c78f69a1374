"""A .tflite file as records: read, counted, checked, its constants halved, and written again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.tensors import TensorSpec

OPERATORS: dict[int, str] = {
    v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)
}
DTYPES: dict[int, str] = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.BFLOAT16: "bfloat16",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.INT8: "int8",
    schema.TensorType.INT16: "int16",
    schema.TensorType.INT32: "int32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.UINT32: "uint32",
    schema.TensorType.BOOL: "bool",
}
"""Tensor types by numpy dtype name; another one is called by its number."""
DEQUANTIZE = schema.BuiltinOperator.DEQUANTIZE
DEQUANTIZE_FP16 = 3
"""First version of the operator that takes FP16. Source: TensorFlow Lite, `op_version.cc`."""
ALIGNMENT = 16
"""Bytes. Source: TensorFlow Lite, `schema.fbs`, `Buffer.data (force_align: 16)`."""
SCALAR = np.float32().nbytes
HALF_MAX = float(np.finfo(np.float16).max)


class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """A builder that keeps the schema's alignment of constants, which Python's own one drops."""

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:
        if x.dtype != np.uint8:
            return int(super().CreateNumpyVector(x))
        self.StartVector(1, x.size, ALIGNMENT)
        payload = x.tobytes()
        start = int(self.Head()) - len(payload)
        self.Bytes[start : start + len(payload)] = payload
        self.head = start
        self.vectorNumElems = x.size
        return int(self.EndVector())


def parse(content: bytes) -> schema.ModelT:
    """The records (`ModelT`) of a file's bytes, which they share their constants with."""
    return flatbuffer_utils.read_model_from_bytearray(content)


def serialise(model: schema.ModelT) -> bytes:
    """The bytes of a file; equal records give equal bytes."""
    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def read(path: Path) -> schema.ModelT:
    """The records of a file."""
    return parse(path.read_bytes())


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Kind of one operator, as the schema spells it; a custom one with its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = OPERATORS[flatbuffer_utils.get_builtin_code_from_operator_code(code)]
    return f"CUSTOM {code.customCode.decode()}" if name == "CUSTOM" else name


def count_operators(model: schema.ModelT) -> dict[str, int]:
    """Operators of all subgraphs by kind."""
    counts = Counter(operator_name(model, o) for s in model.subgraphs for o in s.operators)
    return dict(sorted(counts.items()))


def count_constants(model: schema.ModelT) -> dict[str, int]:
    """Elements of all constants by numpy dtype name; a shared one counts once."""
    counts, seen = Counter[str](), set[int]()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if model.buffers[tensor.buffer].data is not None and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                counts[dtype_name(tensor)] += int(np.prod(shape_of(tensor), dtype=np.int64))
    return dict(sorted(counts.items()))


def bytes_of_constants(model: schema.ModelT) -> int:
    """Size of all constants."""
    return sum(b.data.size for b in model.buffers if b.data is not None)


def dtype_name(tensor: schema.TensorT) -> str:
    return DTYPES.get(tensor.type, f"type {tensor.type}")


def shape_of(tensor: schema.TensorT) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(n) for n in tensor.shape)


def signature_of(model: schema.ModelT, key: str) -> schema.SignatureDefT | None:
    """The signature called `key`, or None."""
    return next((s for s in model.signatureDefs or () if s.signatureKey.decode() == key), None)


def signature_outputs(model: schema.ModelT, key: str) -> tuple[str, ...]:
    """Names of a signature's outputs in the order of its graph; the file sorts them by name."""
    signature = signature_of(model, key)
    assert signature is not None
    order = list(model.subgraphs[signature.subgraphIndex].outputs)
    found = sorted(signature.outputs, key=lambda m: order.index(m.tensorIndex))
    return tuple(m.name.decode() for m in found)


def signature_faults(
    model: schema.ModelT, key: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> list[str]:
    """Where the signature `key` differs from the contract in name, shape or dtype."""
    signature = signature_of(model, key)
    if signature is None:
        return [f"there is no signature `{key}`"]
    tensors = model.subgraphs[signature.subgraphIndex].tensors
    problems = []
    for kind, maps, specs in (
        ("input", signature.inputs, inputs),
        ("output", signature.outputs, outputs),
    ):
        found = sorted(
            (m.name.decode(), shape_of(t), dtype_name(t))
            for m, t in ((m, tensors[m.tensorIndex]) for m in maps)
        )
        wanted = sorted((s.name, s.shape, s.dtype) for s in specs)
        if found != wanted:
            problems.append(f"{kind}s are {found}, want {wanted}")
    return problems


def limit_faults(model: schema.ModelT, max_rank: int | None, forbidden: Sequence[str]) -> list[str]:
    """What a target cannot run: its forbidden operators, custom ones, and tensors of high rank."""
    problems = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = operator_name(model, operator)
            result = graph.tensors[operator.outputs[0]]
            at = f"`{name}` that gives `{result.name.decode()}` of shape {times(result)}"
            if name in forbidden:
                problems.append(f"forbidden {at}")
            elif name.startswith("CUSTOM"):
                problems.append(f"custom operator {at}")
            if max_rank is None:
                continue
            for index in dict.fromkeys((*operator.inputs, *operator.outputs)):
                if index >= 0 and len(shape_of(graph.tensors[index])) > max_rank:
                    tensor = graph.tensors[index]
                    problems.append(
                        f"rank {len(shape_of(tensor))} at {name}: "
                        f"`{tensor.name.decode()}` of shape {times(tensor)}"
                    )
    return problems


def times(tensor: schema.TensorT) -> str:
    """A shape as text: `1x64x64x32`."""
    return "x".join(map(str, shape_of(tensor))) or "()"


def halve_constants(model: schema.ModelT, kept: Collection[int] = ()) -> None:
    """Store every FP32 constant in FP16, behind a DEQUANTIZE; arithmetic stays as it is.

    This is TensorFlow Lite's own form of FP16 weights: a CPU unpacks them once, when it loads the
    file, and the GPU delegate drops the DEQUANTIZE and reads FP16. Scalars stay in FP32 (an epsilon
    of 1e-12 would be zero), and so does a constant with a value past 65504.

    Args:
        model: The file's records, changed in place.
        kept: Indices of buffers that stay as they are.
    """
    halved = {
        tensor.buffer
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.buffer not in kept and _fits(model.buffers[tensor.buffer].data, tensor)
    }
    for graph in model.subgraphs:
        casts = []
        for index, tensor in enumerate(list(graph.tensors)):
            buffer = tensor.buffer
            if buffer not in halved:
                continue
            half = schema.TensorT()
            half.name = tensor.name + b"/fp16"
            half.shape, half.type, half.buffer = tensor.shape, schema.TensorType.FLOAT16, buffer
            half.hasRank = tensor.hasRank
            cast = schema.OperatorT()
            cast.opcodeIndex = operator_code(model, DEQUANTIZE, DEQUANTIZE_FP16)
            cast.inputs, cast.outputs = [len(graph.tensors)], [index]
            cast.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
            cast.builtinOptions = schema.DequantizeOptionsT()
            graph.tensors.append(half)
            tensor.buffer = 0
            casts.append(cast)
        graph.operators = [*casts, *graph.operators]
    for index in halved:
        values = np.frombuffer(model.buffers[index].data, np.float32)
        model.buffers[index].data = values.astype(np.float16).view(np.uint8)


def _fits(data: NDArray[np.uint8] | None, tensor: schema.TensorT) -> bool:
    """Whether a tensor is a constant FP32 array that FP16 can hold."""
    if data is None or tensor.type != schema.TensorType.FLOAT32 or data.size <= SCALAR:
        return False
    return bool(np.abs(np.frombuffer(data, np.float32)).max() <= HALF_MAX)


def operator_code(model: schema.ModelT, builtin: int, version: int) -> int:
    """Index of an operator in the file's table of operators, where it is put if it is missing."""
    for i, code in enumerate(model.operatorCodes):
        found = flatbuffer_utils.get_builtin_code_from_operator_code(code)
        if (found, code.version) == (builtin, version):
            return i
    code = schema.OperatorCodeT()
    # The older field holds a byte. Source: TensorFlow Lite, `schema.fbs`.
    code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_reshape(
    model: schema.ModelT, graph: schema.SubGraphT, index: int, shape: tuple[int, ...]
) -> schema.OperatorT:
    """A RESHAPE of a tensor, with its result and its constant put into the graph, itself not."""
    source = graph.tensors[index]
    result, wanted = schema.TensorT(), schema.TensorT()
    result.name = source.name + b"/reshaped"
    result.shape, result.type, result.hasRank = list(shape), source.type, source.hasRank
    buffer = schema.BufferT()
    buffer.data = np.array(shape, np.int32).view(np.uint8)
    model.buffers.append(buffer)
    wanted.name, wanted.shape, wanted.type = (
        source.name + b"/shape",
        [len(shape)],
        schema.TensorType.INT32,
    )
    wanted.buffer, wanted.hasRank = len(model.buffers) - 1, source.hasRank
    graph.tensors += [result, wanted]
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.RESHAPE, 1)
    operator.inputs = [index, len(graph.tensors) - 1]
    operator.outputs = [len(graph.tensors) - 2]
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.builtinOptions = options
    return operator
