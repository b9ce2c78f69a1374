"""Reading TensorRT's log: errors as sentences, and layers by dtype."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("onnx")

from effsam_export.backends import messages
from effsam_export.backends.tensorrt.build import (
    BuiltEngine,
    Layer,
    check_layers,
    layers_document,
    layers_of,
    node_fault,
    reason,
    refusal,
    signature_faults,
    strongly_typed,
)
from effsam_export.errors import CheckFailed
from tests.backends.test_contract import COMPONENT

pytestmark = pytest.mark.backend

# As TensorRT-RTX 1.7.1 writes it, shortened.
LINEAR = "Strides: [48,1], StrideOrder: [1,0], Datatype: {}, Format: (Linear) Row major"
LOG = "\n".join(
    [
        "Layers:",
        "Name: __mye150, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], "
        "TacticName: , StreamId: 0, Metadata: ",
        "Name: node_of_hidden, LayerType: gemm, Inputs: [ { Name: tokens, Dimensions: [-1,48], "
        + LINEAR.format("Float")
        + " }], Constants: [ { Name: weight, Dimensions: [48,48], "
        + LINEAR.format("Half")
        + " }, { Name: alpha, Dimensions: [1], Strides: [1], Datatype: Float, Format: (Linear) }], "
        "Outputs: [ { Name: hidden, Dimensions: [-1,48], "
        + LINEAR.format("Half")
        + " }], TacticName: __myelin, StreamId: 0, Metadata: [ONNX Layer: node_of_hidden]",
        "Name: fused, LayerType: kgen, Inputs: [ { Name: hidden, Dimensions: [-1,48], "
        + LINEAR.format("Half")
        + " }], Constants: [ { Name: table, Dimensions: [2,3], "
        + LINEAR.format("Int32")
        + " }], Outputs: [ { Name: iou, Dimensions: [-1], Datatype: Float }, { Name: masks, "
        "Dimensions: [-1,48], "
        + LINEAR.format("Half")
        + " }], TacticName: __myl_Tanh, StreamId: 0, Metadata: [ONNX Layer: node_of_masks]\x1f"
        "[ONNX Layer: node_of_act]",
        "",
        "I/O Tensors:",
        " Name: tokens, IOMode: Input, DataType: Float, Dimensions: [-1,48]",
    ]
)
SHAPE, GEMM, FUSED = layers_of(["Adding 1 engine(s) to plan file.", LOG])
BUILT = BuiltEngine(engine=b"", layers=(SHAPE, GEMM, FUSED), warnings=("careful",), seconds=1.0)


def test_layers() -> None:
    assert [n.name for n in (SHAPE, GEMM, FUSED)] == ["__mye150", "node_of_hidden", "fused"]
    assert [n.kind for n in (SHAPE, GEMM, FUSED)] == ["shape_call", "gemm", "kgen"]
    assert FUSED.nodes == ("node_of_act", "node_of_masks")
    assert (SHAPE.outputs, GEMM.outputs) == ((), ("float16",))
    assert FUSED.outputs == ("float32", "float16")


def test_constants_are_counted_in_elements() -> None:
    assert GEMM.constants == {"float16": 48 * 48, "float32": 1}
    assert BUILT.constants == {"float16": 48 * 48, "float32": 1, "int32": 6}


def test_kinds() -> None:
    assert BUILT.kinds == {"gemm": 1, "kgen": 1, "shape_call": 1}


def test_log_without_a_list_of_layers() -> None:
    assert layers_of(["Engine generation completed in 0.1 seconds."]) == ()


def test_document() -> None:
    found = layers_document(BUILT)
    assert found["outputs_by_dtype"] == {"float16": 2, "float32": 1}
    assert found["constants_by_dtype"] == {"float16": 2304, "float32": 1, "int32": 6}
    assert found["warnings"] == ["careful"]
    assert found["layers"][2] == {
        "name": "fused",
        "kind": "kgen",
        "onnx_nodes": ["node_of_act", "node_of_masks"],
        "outputs": ["float32", "float16"],
    }


def layer(*outputs: str) -> Layer:
    return Layer(name="fused_3", kind="kgen", nodes=(), outputs=outputs, constants={})


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param((layer("float16"), layer("float32")), id="an island"),
        pytest.param((layer("float32", "float16"),), id="statistics beside the result"),
    ],
)
def test_fp16_layers(layers: tuple[Layer, ...]) -> None:
    check_layers("encoder", "fp16", layers)


def test_fp32_layers() -> None:
    check_layers("encoder", "fp32", (layer("float32"), layer("int32"), layer()))


def test_missing_fp16_layers_are_refused() -> None:
    with pytest.raises(CheckFailed) as caught:
        check_layers("encoder", "fp16", (layer("float32"), layer("int32")))
    assert caught.value.message == (
        "encoder: the precision is fp16, but none of 2 layers computes in fp16"
    )


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_half_precision_layers_in_fp32_are_refused(narrow: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        check_layers("encoder", "fp32", (layer("float32"), layer("float32", narrow)))
    assert caught.value.message == (
        "encoder: the precision is fp32, but 1 of 2 layers compute in half precision, "
        "first `fused_3`"
    )


def test_engine_without_a_list_of_layers_is_refused() -> None:
    with pytest.raises(CheckFailed) as caught:
        check_layers("encoder", "fp16", ())
    assert caught.value.message == (
        "encoder: the builder did not list the layers of its engine, so their precision cannot "
        "be checked"
    )


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (
            "Invalid Node - bad_matmul\nITensor::getDimensions: Error Code 4: API Usage Error "
            "(bad_matmul: last dimension of input0 = 48 and second to last dimension of input1 = 4 "
            "but must match. In validate at /_src/api/layers/matrixMultiplyLayer.cpp:192)"
            "\n[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In "
            "catchCudaError at /_src/checkMacros.cpp:250 (cudaError 35: CUDA driver version is "
            "insufficient for CUDA runtime version))",
            "bad_matmul: last dimension of input0 = 48 and second to last dimension of input1 = 4 "
            "but must match",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: "
            "check_turing_op_compatibility] Cannot compile operation 'node_of_hidden' for Turing "
            "(SM75): FP32 GEMM is not supported. In compileGraph at /_src/codeGenerator.cpp:2012)",
            "Cannot compile operation 'node_of_hidden' for Turing (SM75): FP32 GEMM is not "
            "supported",
        ),
        (
            "Invalid Node - tile\n[elementWiseNode.cpp::computeOutputExtents::85] Error Code 2: "
            "Internal Error (Assertion x.nbDims == y.nbDims failed.  mismatched inputs : a [1] and "
            "rep [1,p] In computeOutputExtents at /_src/elementWiseNode.cpp:85)",
            "Assertion x.nbDims == y.nbDims failed.  mismatched inputs : a [1] and rep [1,p]",
        ),
        (
            'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
            'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
        ),
        ("Invalid Node - node_of_column", "it is not valid"),
    ],
    ids=["shapes", "gpu", "assertion", "plugin", "nothing"],
)
def test_reason(message: str, wanted: str) -> None:
    assert reason(message) == wanted


def test_refusal_with_every_reason() -> None:
    found = refusal("decoder: TensorRT built no engine", ["this", "that"])
    assert (found.message, found.hint) == ("decoder: TensorRT built no engine: this; that", None)


def test_refusal_without_a_reason() -> None:
    assert refusal("decoder: no engine", []).message == "decoder: no engine: no reason in its log"


def test_refusal_with_a_known_message_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    row = messages.KnownMessage(
        pattern="no tactics", cause="too little room", hint="give more", source=""
    )
    monkeypatch.setattr(messages, "MESSAGES", (row,))
    assert refusal("decoder", ["no tactics at all"]).hint == "too little room: give more"


def test_fault_names_the_node() -> None:
    assert node_fault("the_node", "Frobnicate", "no importer") == (
        "node `the_node` (Frobnicate): no importer"
    )


@pytest.mark.parametrize(
    ("sdk", "flags"),
    [
        (SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1)), 2),
        (SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=0)), 1),
        (SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace()), 0),
        (SimpleNamespace(), 0),
    ],
    ids=["TensorRT 10", "TensorRT-RTX", "no such flag", "no flags"],
)
def test_strongly_typed(sdk: SimpleNamespace, flags: int) -> None:
    assert strongly_typed(sdk) == flags


def network(inputs: list[str], outputs: list[str]) -> SimpleNamespace:
    return SimpleNamespace(
        num_inputs=len(inputs),
        num_outputs=len(outputs),
        get_input=lambda i: SimpleNamespace(name=inputs[i]),
        get_output=lambda i: SimpleNamespace(name=outputs[i]),
    )


def test_signature() -> None:
    assert signature_faults(network(["tokens", "flags"], ["masks", "iou"]), COMPONENT) == []


def test_signature_of_an_empty_network() -> None:
    assert signature_faults(network([], []), COMPONENT) == [
        "TensorRT reads the inputs [], expected ['tokens', 'flags']",
        "TensorRT reads the outputs [], expected ['masks', 'iou']",
    ]
