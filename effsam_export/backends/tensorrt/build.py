"""A typed ONNX file to an engine: the calls that `tensorrt` and `tensorrt_rtx` have in common.

The builder's own list of the layers it made is read from its log, so the receipt is of the engine
and needs no GPU: to open an engine one is needed.
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
    # What TensorRT calls a dtype in its layer information -> numpy's name.
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
PLACE = re.compile(r"^\[[\w./]+:\d+: \w+\] ")
NOISE = "checkMacros.cpp"
"""Follows every refusal on a machine without a GPU, and says only that."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine.

    Attributes:
        nodes: Names of the ONNX nodes fused into it, as far as the builder knows them.
        outputs: Dtypes of what it writes.
        constants: Elements of its constants by dtype.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Built:
    """A serialised engine and what the builder said about it."""

    engine: bytes
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def constants(self) -> dict[str, int]:
        """Elements of all constants of the engine by dtype."""
        total = Counter[str]()
        for layer in self.layers:
            total.update(layer.constants)
        return dict(sorted(total.items()))

    @property
    def kinds(self) -> dict[str, int]:
        """Layers by kind."""
        return dict(sorted(Counter(layer.kind for layer in self.layers).items()))


@cache
def recorder(trt: Any) -> Any:  # noqa: ANN401 - SDK objects
    """The one logger of the process: TensorRT keeps the first it is given and ignores others."""

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
) -> Built:
    """Compile an engine.

    Args:
        trt: The SDK.
        component: Whose inputs and outputs the network has to have.
        path: The typed ONNX file.
        shapes: The range of every input.
        configure: Sets what is particular to a target on the builder's configuration.

    Raises:
        CheckFailed: The parser or the builder refused, with every reason it gave.
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
        raise refused(f"{component.name}: TensorRT cannot read the graph", reasons)
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
        found = [reason(m) for s, m in log.lines if _is_error(trt, s) and NOISE not in m]
        raise refused(f"{component.name}: TensorRT built no engine", list(dict.fromkeys(found)))
    return Built(
        engine=bytes(engine),
        layers=layers_of(m for _, m in log.lines),
        warnings=tuple(dict.fromkeys(m for s, m in log.lines if s == trt.ILogger.WARNING)),
        seconds=seconds,
    )


def strongly_typed(trt: Any) -> int:  # noqa: ANN401 - an SDK module
    """Flags of a network that computes in the dtypes of its graph.

    TensorRT 10 has to be asked; later versions know no other network and may drop the flag.
    """
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    flag = getattr(flags, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _is_error(trt: Any, severity: Any) -> bool:  # noqa: ANN401 - SDK objects
    return severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)


def refused(what: str, reasons: list[str]) -> CheckFailed:
    """The error of a refusal, with every reason, and with advice where one is known."""
    text = "; ".join(reasons) or "it gave no reason"
    known = messages.explain(text)
    return CheckFailed(f"{what}: {text}", hint=f"{known.cause}: {known.hint}" if known else None)


def node_fault(name: str, op: str, description: str) -> str:
    """One refusal of the parser as a sentence with the node it is about."""
    return f"node `{name}` ({op}): {reason(description)}"


def reason(message: str) -> str:
    """What a message of TensorRT says, without its codes and source lines."""
    lines = [line for line in message.splitlines() if NOISE not in line]
    found = REASON.search("\n".join(lines))
    if found:
        return PLACE.sub("", found["reason"].strip().removeprefix("("))
    rest = " ".join(line for line in lines if not line.startswith("Invalid Node")).strip()
    return rest or "it is not valid"


def signature_faults(network: Any, component: ComponentSpec) -> list[str]:  # noqa: ANN401
    """Where a parsed network's inputs and outputs are not the component's.

    The parser takes bytes that are no ONNX for an empty graph and finds no fault in them.
    """
    problems = []
    for kind, count, get, specs in (
        ("inputs", network.num_inputs, network.get_input, component.inputs),
        ("outputs", network.num_outputs, network.get_output, component.outputs),
    ):
        found = [get(i).name for i in range(count)]
        wanted = [s.name for s in specs]
        if found != wanted:
            problems.append(f"TensorRT reads the {kind} {found}, want {wanted}")
    return problems


def layers_of(messages: Any) -> tuple[Layer, ...]:  # noqa: ANN401 - any iterable of strings
    """The layers a builder lists in its verbose log; empty where there is no such list."""
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
    component: str, asked: Precision, layers: tuple[Layer, ...], *, int8: bool = False
) -> None:
    """Compare the layers of an engine with the precision that was asked.

    An FP16 engine may compute single layers in FP32: those the recipe names, and the mean and
    variance of a LayerNormalization, which TensorRT takes in FP32 of its own accord.

    Args:
        component: Name for the message.
        asked: Precision of the target.
        layers: Of the engine, as the builder listed them.
        int8: The graph quantizes activations, and not weights alone.

    Raises:
        CheckFailed: A layer of an FP32 engine is narrower, none of an FP16 engine is FP16, or none
            that should be INT8 is.
    """
    if not layers:
        raise CheckFailed(
            f"{component}: the builder did not list the layers of its engine, "
            "so their precision cannot be checked",
            hint="use a version of TensorRT this effsam was made for (`effsam doctor`)",
        )
    narrow = [n.name for n in layers if {"float16", "bfloat16"} & set(n.outputs)]
    if asked == "fp32" and narrow:
        raise CheckFailed(
            f"{component}: asked for fp32, but {len(narrow)} of {len(layers)} layers compute in "
            f"half precision, first `{narrow[0]}`"
        )
    if asked == "fp16" and not narrow:
        raise CheckFailed(
            f"{component}: asked for fp16, but none of {len(layers)} layers computes in it"
        )
    if int8 and not any("int8" in n.outputs for n in layers):
        raise CheckFailed(
            f"{component}: asked for int8, but none of {len(layers)} layers gives INT8 to another"
        )


def layers_document(built: Built) -> dict[str, Any]:
    """The layers as JSON, in the order they run."""
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
