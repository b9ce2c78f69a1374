"""Error messages of converters and runtimes, with their cause and a remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KnownMessage:
    """An error message with its cause and a remedy.

    Attributes:
        pattern: Regular expression that finds the message in a log.
        cause: What is wrong, without a full stop.
        hint: What to do, without a full stop.
        source: Issue that explains it, or where it was observed.
    """

    pattern: str
    cause: str
    hint: str
    source: str


MESSAGES: tuple[KnownMessage, ...] = (
    KnownMessage(
        pattern=r"MemoryError|std::bad_alloc|Cannot allocate memory|[Oo]ut of memory",
        cause="memory ran out",
        hint="close other programs, export one component at a time (--component), or use a "
        "machine with more memory",
        source="NVIDIA/TensorRT#4258",
    ),
    KnownMessage(
        pattern=r"No space left on device",
        cause="the disk is full",
        hint="choose an --output on a disk with room; converters also write to the temporary "
        "folder (TMPDIR)",
        source="observed in this project",
    ),
    KnownMessage(
        pattern=r"only 0-dimensional arrays can be converted to Python scalars",
        cause="NumPy 2.4 and newer do not convert arrays of one element to scalars, which "
        "coremltools 9 relies on",
        hint='pip install "numpy<2.4"',
        source="apple/coremltools#2633, #2755",
    ),
    KnownMessage(
        pattern=r"PyTorch convert function for op '?repeat_interleave'? not implemented"
        r"|repeat_interleave.*not (implemented|supported)",
        cause="the graph uses `repeat_interleave`, which this converter does not support",
        hint="broadcast instead of repeating, as the decoders of `effsam export` do",
        source="apple/coremltools#1895, #1769, #2207; ChaoningZhang/MobileSAM#16",
    ),
    KnownMessage(
        pattern=r"PyTorch convert function for op '?([\w.:]+)'? not implemented",
        cause="coremltools cannot convert an operator of this graph",
        hint="`effsam lint MODEL --target coreml` names the source line of the operator and a "
        "replacement",
        source="apple/coremltools#1769",
    ),
    KnownMessage(
        pattern=r"OneHot.*cannot be used to compute a shape tensor|/Tile.*invalid",
        cause="TensorRT refused a OneHot or Tile node, the form in which `repeat_interleave` is "
        "exported",
        hint="broadcast instead of repeating, as the decoders of `effsam export` do",
        source="mit-han-lab/efficientvit#70, #78; NVIDIA-AI-IOT/nanosam#12, #16",
    ),
    KnownMessage(
        pattern=r"orig_im_size.*shape tensor|shape tensor.*orig_im_size",
        cause="the input `orig_im_size` sets the masks' shape, which TensorRT does not support",
        hint="remove `orig_im_size` from the graph and resize the masks in the app",
        source="vietanhdev/samexporter#31; NVIDIA/TensorRT#2968",
    ),
    KnownMessage(
        pattern=r"cudaError 35|CUDA driver version is insufficient for CUDA runtime",
        cause="the NVIDIA driver is missing or older than this TensorRT requires",
        hint="install or update the driver; a TensorRT-RTX engine can be built without one",
        source="observed with TensorRT-RTX 1.7.1 without a driver",
    ),
    KnownMessage(
        pattern=r"FP32 GEMM is not supported|for Turing \(SM75\)",
        cause="TensorRT-RTX has no FP32 matrix product for Turing GPUs (compute capability 7.5)",
        hint="export in FP16, or remove 75 from the target's `compute_capabilities`",
        source="observed with TensorRT-RTX 1.7.1",
    ),
    KnownMessage(
        pattern=r"must have same input types\. But they are of types (Half|Float|BFloat16) and "
        r"(Half|Float|BFloat16)",
        cause="a node has inputs of two floating-point dtypes, and a strongly typed network has "
        "no implicit casts",
        hint="a cast is missing in the graph: report the node's name as a bug",
        source="observed with TensorRT-RTX 1.7.1",
    ),
    KnownMessage(
        pattern=r"Plugin not found|plugin creator .*was not found",
        cause="TensorRT does not support an operator of this graph",
        hint="`effsam lint MODEL --target tensorrt` names the source line of the operator and a "
        "replacement",
        source="observed with a custom domain and with NonZero",
    ),
    KnownMessage(
        pattern=r"ScatterND with reduction is not supported",
        cause="TensorRT's ScatterND overwrites values and cannot reduce them",
        hint="write the reduction as a product with a mask, or set `reduction` to none",
        source="observed in this project",
    ),
    KnownMessage(
        pattern=r"missing values for shape input tensor (\S+)|no optimization profile has been "
        r"defined",
        cause="an input sets the shape of a tensor, or a dynamic input has no shape range",
        hint="remove inputs such as `orig_im_size` from the graph; give every dynamic input a "
        "shape range",
        source="observed in this project; vietanhdev/samexporter#31",
    ),
    KnownMessage(
        pattern=r"no tactics to implement the operation within workspace limit|insufficient "
        r"workspace",
        cause="a layer needs more workspace than the builder may use",
        hint="raise the target option `workspace_mib` (0 is no limit)",
        source="observed with a workspace of 1 byte",
    ),
    KnownMessage(
        pattern=r"mismatched inputs : .*ONNXTRT_ShapeElementWise"
        r"|isInFlight\(p\.second\.symbolicRep\)",
        cause="a shape is computed from the values of a tensor, for example by `repeat_interleave` "
        "(OneHot, Tile)",
        hint="broadcast instead of repeating, and compute no sizes in the graph",
        source="observed in this project; nanosam#12, efficientvit#78",
    ),
    KnownMessage(
        pattern=r"Could not find any implementation for node",
        cause="TensorRT found no kernel for a layer, often because GPU memory ran out",
        hint="free GPU memory, change the target option `workspace_mib`, or use a newer TensorRT",
        source="NVIDIA/TensorRT#4258; NVIDIA-AI-IOT/nanosam#6",
    ),
    KnownMessage(
        pattern=r"serialized engine.*(version|compatib)|plan file.*(version|incompatible)"
        r"|magicTag|Version tag does not match|incompatible serialization version"
        r"|plan\.header\.size == blobSize",
        cause="an engine works only with the TensorRT version and GPU that it was built for",
        hint="build the engine again on the device, from the ONNX file in the bundle",
        source="NVIDIA/TensorRT#70, #292, #818; open-mmlab/mmdeploy#1231",
    ),
    KnownMessage(
        pattern=r"Flex(Delegate| ops?\b)|flex delegate|SELECT_TF_OPS",
        cause="the graph needs TensorFlow operators that TFLite does not include",
        hint="`effsam lint MODEL --target tflite` names them; fixed shapes often avoid them",
        source="ChaoningZhang/MobileSAM#141; PINTO0309/onnx2tf#543",
    ),
    KnownMessage(
        pattern=r"ANECCompile\(\) FAILED",
        cause="the Neural Engine's compiler could not compile the graph",
        hint="use tensors of lower rank, smaller reshapes, or other `compute_units` in the target",
        source="apple/coremltools#1548",
    ),
    KnownMessage(
        pattern=r"exceeds? (the )?maximum protobuf size|2147483648|larger than 2 ?GB|"
        r"Failed to serialize proto",
        cause="a file would be larger than the 2 GB that protobuf allows",
        hint="export one component at a time (--component), or store the weights outside the file",
        source="vietanhdev/samexporter, sam_onnx_full_export#3",
    ),
    KnownMessage(
        pattern=r"torchvision::nms does not exist",
        cause="the installed torchvision was built for another version of torch",
        hint="pip uninstall torchvision; effsam does not need it",
        source="observed in this project",
    ),
    KnownMessage(
        pattern=r"module 'onnx' has no attribute",
        cause="a file or folder called `onnx` hides the Python package",
        hint="rename it, or run the command in another folder",
        source="CASIA-IVA-Lab/FastSAM#264",
    ),
    KnownMessage(
        pattern=r"UnpicklingError|Weights only load failed",
        cause="the checkpoint is a pickle with objects that are not tensors",
        hint="pass it to `effsam export --checkpoint`, which reads the tensors and runs no code",
        source="CASIA-IVA-Lab/FastSAM, torch 2.6",
    ),
)


def explain(log: str) -> KnownMessage | None:
    """Return the first entry of `MESSAGES` whose pattern occurs in a log, or None."""
    return next((m for m in MESSAGES if re.search(m.pattern, log)), None)
