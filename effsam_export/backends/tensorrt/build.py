"""Build an engine from a typed ONNX file, with `tensorrt` or `tensorrt_rtx`.

The layers of the engine are read from the builder's log. Opening an engine would need a GPU.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.backends import messages
from effsam_export.backends.tensorrt.shape_ranges import set_profile
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from effsam_export.backends.tensorrt.shape_ranges import Range
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.targets import Precision

DTYPES = {
    # Name in TensorRT's layer information -> numpy name
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Int64": "int64",
    "Int32": "int32",
    "Int8": "int8",
    "UInt8": "uint8",
    "Bool": "bool",
}
LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, "
    r"StreamId: \d+, Metadata: ?(?P<metadata>.*)$"
)
TENSOR = re.compile(r"Dimensions: \[(?P<dims>[-\d,]*)\].*?Datatype: (?P<dtype>\w+)")
NODE = re.compile(r"\[ONNX Layer: (.*?)\]")
REASON = re.compile(
    r"Error Code \d+: [\w ]+ \((?P<reason>.*?)(?:\.?\s+In \w+ at |\)\s*$)", re.DOTALL
)
SOURCE_PREFIX = re.compile(r"^\[[\w./]+:\d+: \w+\] ")
NO_GPU_NOISE = "checkMacros.cpp"
"""In a message that follows every error on a machine without a GPU, and adds nothing to it."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: TensorRT's name of the layer.
        kind: TensorRT's type of the layer.
        nodes: Names of the ONNX nodes fused into it, as far as the builder lists them.
        outputs: Dtypes of its outputs.
        constants: Number of constant elements by dtype.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialised engine, with its layers, the builder's warnings and the build time."""

    engine: bytes
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def constants(self) -> dict[str, int]:
        """Number of constant elements of the engine by dtype."""
        total = Counter[str]()
        for layer in self.layers:
            total.update(layer.constants)
        return dict(sorted(total.items()))

    @property
    def kinds(self) -> dict[str, int]:
        """Number of layers by kind."""
        return dict(sorted(Counter(layer.kind for layer in self.layers).items()))


@cache
def recorder(trt: Any) -> Any:  # noqa: ANN401 - SDK objects
    """Return the logger of the process; TensorRT keeps the first logger and ignores later ones."""

    class Recorder(trt.ILogger):  # type: ignore[misc]  # the SDK has no stubs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401 - an SDK enumeration
            self.lines.append((severity, message))

    return Recorder()


def build(
    trt: Any,  # noqa: ANN401 - the module `tensorrt` or `tensorrt_rtx_bindings`
    component: ComponentSpec,
    path: Path,
    shapes: Mapping[str, Range],
    configure: Callable[[Any], None],
) -> BuiltEngine:
    """Build an engine.

    Args:
        trt: The SDK.
        component: Contract with the names of inputs and outputs.
        path: The typed ONNX file.
        shapes: Shape range of every input.
        configure: Sets the target's options in the builder's configuration.

    Raises:
        CheckFailed: The parser or the builder failed; the message has all of its reasons.
    """
    log = recorder(trt)
    log.lines.clear()
    begin = time.perf_counter()
    builder = trt.Builder(log)
    network = builder.create_network(strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(path))
    faults = [parser.get_error(i) for i in range(parser.num_errors)]
    if not parsed or faults:
        reasons = [node_fault(f.node_name(), f.node_operator(), f.desc()) for f in faults]
        raise refusal(f"{component.name}: TensorRT cannot read the graph", reasons)
    problems = signature_faults(network, component)
    if problems:
        raise CheckFailed(f"{component.name}: {'; '.join(problems)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    configure(config)
    if any(r.dynamic for r in shapes.values()):
        profile = builder.create_optimization_profile()
        set_profile(profile, shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - begin
    if engine is None:
        found = [reason(m) for s, m in log.lines if _is_error(trt, s) and NO_GPU_NOISE not in m]
        raise refusal(
            f"{component.name}: TensorRT could not build the engine", list(dict.fromkeys(found))
        )
    return BuiltEngine(
        engine=bytes(engine),
        layers=layers_of(m for _, m in log.lines),
        warnings=tuple(dict.fromkeys(m for s, m in log.lines if s == trt.ILogger.WARNING)),
        seconds=seconds,
    )


def strongly_typed(trt: Any) -> int:  # noqa: ANN401 - an SDK module
    """Return the creation flags of a strongly typed network.

    TensorRT 10 needs a flag. Later versions have only strongly typed networks and may drop it.
    """
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    flag = getattr(flags, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _is_error(trt: Any, severity: Any) -> bool:  # noqa: ANN401 - SDK objects
    return severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)


def refusal(what: str, reasons: list[str]) -> CheckFailed:
    """Return the error for a failed build, with every reason and the hint of a known message."""
    text = "; ".join(reasons) or "no reason in its log"
    known = messages.explain(text)
    return CheckFailed(f"{what}: {text}", hint=f"{known.cause}: {known.hint}" if known else None)


def node_fault(name: str, op: str, description: str) -> str:
    """Return a parser error as a sentence that names the node."""
    return f"node `{name}` ({op}): {reason(description)}"


def reason(message: str) -> str:
    """Return the text of a TensorRT message without error codes and source lines."""
    lines = [line for line in message.splitlines() if NO_GPU_NOISE not in line]
    found = REASON.search("\n".join(lines))
    if found:
        return SOURCE_PREFIX.sub("", found["reason"].strip().removeprefix("("))
    rest = " ".join(line for line in lines if not line.startswith("Invalid Node")).strip()
    return rest or "it is not valid"


def signature_faults(network: Any, component: ComponentSpec) -> list[str]:  # noqa: ANN401
    """Return how a parsed network's inputs and outputs differ from the component's.

    The parser reads bytes that are not ONNX as an empty graph, without an error.
    """
    problems = []
    for kind, count, get, specs in (
        ("inputs", network.num_inputs, network.get_input, component.inputs),
        ("outputs", network.num_outputs, network.get_output, component.outputs),
    ):
        found = [get(i).name for i in range(count)]
        wanted = [s.name for s in specs]
        if found != wanted:
            problems.append(f"TensorRT reads the {kind} {found}, expected {wanted}")
    return problems


def layers_of(messages: Any) -> tuple[Layer, ...]:  # noqa: ANN401 - any iterable of strings
    """Return the layers that a builder lists in its verbose log; empty without such a list."""
    text = next((m for m in messages if m.startswith("Layers:\n")), "")
    return tuple(
        Layer(
            name=m["name"],
            kind=m["kind"],
            nodes=tuple(sorted(set(NODE.findall(m["metadata"])))),
            outputs=tuple(_dtype(t["dtype"]) for t in TENSOR.finditer(m["outputs"])),
            constants=_elements(m["constants"]),
        )
        for m in filter(None, map(LAYER.match, text.splitlines()))
    )


def _dtype(name: str) -> str:
    return DTYPES.get(name, name.lower())


def _elements(constants: str) -> dict[str, int]:
    total = Counter[str]()
    for t in TENSOR.finditer(constants):
        dims = [int(d) for d in t["dims"].split(",") if d]
        total[_dtype(t["dtype"])] += int(np.prod(dims, dtype=np.int64))
    return dict(sorted(total.items()))


def check_layers(
    component: str, precision: Precision, layers: tuple[Layer, ...], *, int8: bool = False
) -> None:
    """Compare the layers of an engine with the precision of its target.

    An FP16 engine may compute layers in FP32: those of the recipe, and the mean and variance of a
    LayerNormalization, which TensorRT always computes in FP32.

    Args:
        component: Name for the message.
        precision: Precision of the target.
        layers: Layers of the engine, from the builder's log.
        int8: Whether the graph quantizes activations, not only weights.

    Raises:
        CheckFailed: An FP32 engine has a layer in half precision, an FP16 engine has none, or an
            engine with INT8 activations has no INT8 output.
    """
    if not layers:
        raise CheckFailed(
            f"{component}: the builder did not list the layers of its engine, "
            "so their precision cannot be checked",
            hint="use the version that `pip install 'effsam-export[tensorrt-rtx]'` installs",
        )
    narrow = [n.name for n in layers if {"float16", "bfloat16"} & set(n.outputs)]
    if precision == "fp32" and narrow:
        raise CheckFailed(
            f"{component}: the precision is fp32, but {len(narrow)} of {len(layers)} layers "
            f"compute in half precision, first `{narrow[0]}`"
        )
    if precision == "fp16" and not narrow:
        raise CheckFailed(
            f"{component}: the precision is fp16, but none of {len(layers)} layers computes in fp16"
        )
    if int8 and not any("int8" in n.outputs for n in layers):
        raise CheckFailed(
            f"{component}: the precision is int8, but none of {len(layers)} layers has an INT8 "
            "output"
        )


def layers_document(built: BuiltEngine) -> dict[str, Any]:
    """Return the layers as JSON, in the order in which they run."""
    outputs = Counter(d for layer in built.layers for d in layer.outputs)
    return {
        "outputs_by_dtype": dict(sorted(outputs.items())),
        "layers_by_kind": built.kinds,
        "constants_by_dtype": built.constants,
        "warnings": list(built.warnings),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "onnx_nodes": list(layer.nodes),
                "outputs": list(layer.outputs),
            }
            for layer in built.layers
        ],
    }
