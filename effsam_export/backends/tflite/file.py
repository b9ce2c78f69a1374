"""Read, count, check, change and write a .tflite file as records (`ModelT`) of its schema."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from effsam_export.spec.tensors import ReportedTensor, Signature

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
"""Tensor type of the schema -> numpy dtype name."""
DEQUANTIZE = schema.BuiltinOperator.DEQUANTIZE
DEQUANTIZE_FP16 = 3
"""First operator version with FP16 input. Source: TensorFlow Lite, `op_version.cc`."""
ALIGNMENT = 16
"""Bytes. Source: TensorFlow Lite, `schema.fbs`, `Buffer.data (force_align: 16)`."""
SCALAR = np.float32().nbytes
FP16_MAX = float(np.finfo(np.float16).max)


class AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """A flatbuffer builder that aligns constants as the schema requires, unlike Python's own."""

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
    """Parse the bytes of a file to records; the constants share memory with the bytes."""
    return flatbuffer_utils.read_model_from_bytearray(content)


def serialise(model: schema.ModelT) -> bytes:
    """Return the bytes of a file; equal records give equal bytes."""
    builder = AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def read(path: Path) -> schema.ModelT:
    """Read a file as records."""
    return parse(path.read_bytes())


def operator_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Return an operator's name in the schema; of a custom one, `CUSTOM` and its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = OPERATORS[flatbuffer_utils.get_builtin_code_from_operator_code(code)]
    return f"CUSTOM {code.customCode.decode()}" if name == "CUSTOM" else name


def count_operators(model: schema.ModelT) -> dict[str, int]:
    """Return the number of operators of all subgraphs by name."""
    counts = Counter(operator_name(model, o) for s in model.subgraphs for o in s.operators)
    return dict(sorted(counts.items()))


def count_constants(model: schema.ModelT) -> dict[str, int]:
    """Return the number of constant elements by numpy dtype name; a shared one counts once."""
    counts, seen = Counter[str](), set[int]()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if model.buffers[tensor.buffer].data is not None and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                counts[dtype_name(tensor)] += int(np.prod(shape_of(tensor), dtype=np.int64))
    return dict(sorted(counts.items()))


def bytes_of_constants(model: schema.ModelT) -> int:
    """Return the size of all constants in bytes."""
    return sum(b.data.size for b in model.buffers if b.data is not None)


def dtype_name(tensor: schema.TensorT) -> str:
    return DTYPES.get(tensor.type, f"type {tensor.type}")


def shape_of(tensor: schema.TensorT) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(n) for n in tensor.shape)


def signature_of(model: schema.ModelT, key: str) -> schema.SignatureDefT | None:
    """Return the signature called `key`, or None."""
    return next((s for s in model.signatureDefs or () if s.signatureKey.decode() == key), None)


def signature_outputs(model: schema.ModelT, key: str) -> tuple[str, ...]:
    """Return the output names of a signature in the graph's order; the file sorts them."""
    signature = signature_of(model, key)
    assert signature is not None
    order = list(model.subgraphs[signature.subgraphIndex].outputs)
    found = sorted(signature.outputs, key=lambda m: order.index(m.tensorIndex))
    return tuple(m.name.decode() for m in found)


def reported(model: schema.ModelT, key: str) -> Signature:
    """Return the inputs and outputs of the signature `key`, which must exist."""
    signature = signature_of(model, key)
    assert signature is not None
    tensors = model.subgraphs[signature.subgraphIndex].tensors

    def tensor(entry: schema.TensorMapT) -> ReportedTensor:
        found = tensors[entry.tensorIndex]
        return ReportedTensor(
            name=entry.name.decode(), shape=shape_of(found), dtype=dtype_name(found)
        )

    return Signature(
        inputs=tuple(tensor(m) for m in signature.inputs),
        outputs=tuple(tensor(m) for m in signature.outputs),
    )


def signature_faults(
    model: schema.ModelT, key: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> list[str]:
    """Return how the signature `key` differs from the contract in names, shapes or dtypes."""
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
        expected = sorted((s.name, s.shape, s.dtype) for s in specs)
        if found != expected:
            problems.append(f"{kind}s are {found}, expected {expected}")
    return problems


def limit_faults(model: schema.ModelT, max_rank: int | None, forbidden: Sequence[str]) -> list[str]:
    """Return forbidden operators, custom operators, and tensors above a rank, as sentences."""
    problems = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            name = operator_name(model, operator)
            result = graph.tensors[operator.outputs[0]]
            at = f"`{name}` with output `{result.name.decode()}` of shape {shape_text(result)}"
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
                        f"`{tensor.name.decode()}` of shape {shape_text(tensor)}"
                    )
    return problems


def shape_text(tensor: schema.TensorT) -> str:
    """Return the shape of a tensor as text, such as `1x64x64x32`."""
    return "x".join(map(str, shape_of(tensor))) or "()"


def store_constants_in_fp16(model: schema.ModelT, excluded: Collection[int] = ()) -> None:
    """Store every FP32 constant in FP16 before a DEQUANTIZE; operators still compute in FP32.

    This is TensorFlow Lite's form of FP16 weights. A CPU converts them once when it loads the file;
    the GPU delegate removes the DEQUANTIZE and reads FP16. Scalars stay in FP32 (an epsilon of
    1e-12 would become zero), and so does a constant with a magnitude over 65504.

    Args:
        model: Records of the file, changed in place.
        excluded: Indices of buffers to leave in FP32.
    """
    converted = {
        tensor.buffer
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.buffer not in excluded and _fits(model.buffers[tensor.buffer].data, tensor)
    }
    for graph in model.subgraphs:
        casts = []
        for index, tensor in enumerate(list(graph.tensors)):
            buffer = tensor.buffer
            if buffer not in converted:
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
    for index in converted:
        values = np.frombuffer(model.buffers[index].data, np.float32)
        model.buffers[index].data = values.astype(np.float16).view(np.uint8)


def _fits(data: NDArray[np.uint8] | None, tensor: schema.TensorT) -> bool:
    """Return whether a tensor is a constant FP32 array whose values fit into FP16."""
    if data is None or tensor.type != schema.TensorType.FLOAT32 or data.size <= SCALAR:
        return False
    return bool(np.abs(np.frombuffer(data, np.float32)).max() <= FP16_MAX)


def operator_code(model: schema.ModelT, builtin: int, version: int) -> int:
    """Return the index of an operator in the file's operator table; add it if it is missing."""
    for i, code in enumerate(model.operatorCodes):
        found = flatbuffer_utils.get_builtin_code_from_operator_code(code)
        if (found, code.version) == (builtin, version):
            return i
    code = schema.OperatorCodeT()
    # The deprecated field is a byte. Source: TensorFlow Lite, `schema.fbs`.
    code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_reshape(
    model: schema.ModelT, graph: schema.SubGraphT, index: int, shape: tuple[int, ...]
) -> schema.OperatorT:
    """Return a RESHAPE of a tensor; add its tensors to the graph, but not the operator."""
    source = graph.tensors[index]
    result, shape_tensor = schema.TensorT(), schema.TensorT()
    result.name = source.name + b"/reshaped"
    result.shape, result.type, result.hasRank = list(shape), source.type, source.hasRank
    buffer = schema.BufferT()
    buffer.data = np.array(shape, np.int32).view(np.uint8)
    model.buffers.append(buffer)
    shape_tensor.name, shape_tensor.shape, shape_tensor.type = (
        source.name + b"/shape",
        [len(shape)],
        schema.TensorType.INT32,
    )
    shape_tensor.buffer, shape_tensor.hasRank = len(model.buffers) - 1, source.hasRank
    graph.tensors += [result, shape_tensor]
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.RESHAPE, 1)
    operator.inputs = [index, len(graph.tensors) - 1]
    operator.outputs = [len(graph.tensors) - 2]
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.builtinOptions = options
    return operator
