"""The table of error messages: each pattern matches an example."""

from __future__ import annotations

import re

import pytest

from effsam_export.backends import messages

SEEN = {
    # What a tool printed -> the start of the cause it has to lead to.
    "TypeError: only 0-dimensional arrays can be converted to Python scalars": "NumPy 2.4",
    "terminate called after throwing an instance of 'std::bad_alloc'": "memory ran out",
    "MemoryError: Unable to allocate 1.50 GiB for an array": "memory ran out",
    "OSError: [Errno 28] No space left on device": "the disk is full",
    "NotImplementedError: PyTorch convert function for op 'repeat_interleave' not implemented.": (
        "the graph uses `repeat_interleave`"
    ),
    "NotImplementedError: PyTorch convert function for op 'unique_dim' not implemented.": (
        "coremltools cannot convert"
    ),
    "/OneHot: an IIOneHotLayer cannot be used to compute a shape tensor": "TensorRT refused",
    "orig_im_size: shape tensor must be INT32": "the input `orig_im_size`",
    "Could not find any implementation for node {ForeignNode[norm...Softmax]}": "TensorRT found",
    "Error Code 1: Serialization (Version tag does not match. Note: ...)": "an engine works only",
    "cudaError 35: CUDA driver version is insufficient for CUDA runtime version": (
        "the NVIDIA driver is missing"
    ),
    "Cannot compile operation 'node_of_hidden' for Turing (SM75): FP32 GEMM is not supported": (
        "TensorRT-RTX has no FP32 matrix"
    ),
    "mixed_mul: ElementWiseOperation PROD must have same input types. But they are "
    "of types Half and Float": "a node has inputs of two",
    "NonZero plugin creator version 1 was not found in plugin registry.": (
        "TensorRT does not support an op"
    ),
    'Assertion failed: mode == "none": ScatterND with reduction is not supported.': (
        "TensorRT's ScatterND overwr"
    ),
    "Optimization profile 0 is missing values for shape input tensor orig_im_size": (
        "an input sets the shape"
    ),
    "Tactic Selection: no tactics to implement the operation within workspace limit.": (
        "a layer needs more workspace"
    ),
    "mismatched inputs : ONNXTRT_ShapeTensorFromDims_output [1] and rep [1,p] in "
    "ONNXTRT_ShapeElementWise": "a shape is computed from",
    "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.Trying to "
    "load an engine created with incompatible serialization version": "an engine works only",
    "Flex ops: FlexErf, FlexExtractImagePatches": "the graph needs TensorFlow operators",
    "E5RT: ANECCompile() FAILED (11)": "the Neural Engine's compiler",
    "ValueError: Message onnx.ModelProto exceeds maximum protobuf size of 2GB": "a file would be",
    "RuntimeError: operator torchvision::nms does not exist": "the installed torchvision",
    "AttributeError: module 'onnx' has no attribute '__version__'": "a file or folder called",
    "_pickle.UnpicklingError: Weights only load failed": "the checkpoint is a pickle",
}


@pytest.mark.parametrize(("text", "cause"), SEEN.items(), ids=[c[:24] for c in SEEN.values()])
def test_a_message_leads_to_its_cause(text: str, cause: str) -> None:
    log = f"some noise\n{text}\nmore noise\n"
    found = messages.explain(log)
    assert found is not None
    assert found.cause.startswith(cause)


@pytest.mark.parametrize("known", messages.MESSAGES, ids=[m.cause[:30] for m in messages.MESSAGES])
def test_each_entry_has_an_example_message(known: messages.KnownMessage) -> None:
    assert any(messages.explain(text) is known for text in SEEN)


@pytest.mark.parametrize("known", messages.MESSAGES, ids=[m.cause[:30] for m in messages.MESSAGES])
def test_each_entry_has_the_style_of_error_messages(known: messages.KnownMessage) -> None:
    re.compile(known.pattern)
    for text in (known.cause, known.hint):
        assert text
        assert not text.endswith(".")
    assert known.source


@pytest.mark.parametrize(
    "log", ["", "all fine", "one hot summer, a flexible plan, no memory of it"]
)
def test_other_text_is_not_explained(log: str) -> None:
    assert messages.explain(log) is None
