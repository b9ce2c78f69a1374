"""What converters say when they fail, and what it means: a table of messages seen in the wild."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Known:
    """A message with its cause and its cure.

    Attributes:
        pattern: Regular expression that finds it in a log.
        cause: What is wrong, as half a sentence.
        hint: What to do.
        source: Where it was seen and explained.
    """

    pattern: str
    cause: str
    hint: str
    source: str


MESSAGES: tuple[Known, ...] = (
    Known(
        pattern=r"MemoryError|std::bad_alloc|Cannot allocate memory|[Oo]ut of memory",
        cause="memory ran out",
        hint="close other programs, export one component at a time (--component), or use a "
        "machine with more memory",
        source="NVIDIA/TensorRT#4258",
    ),
    Known(
        pattern=r"No space left on device",
        cause="the disk is full",
        hint="choose an --output on a disk with room; converters also write to the temporary "
        "folder (TMPDIR)",
        source="seen here",
    ),
    Known(
        pattern=r"only 0-dimensional arrays can be converted to Python scalars",
        cause="coremltools 9 does not work with NumPy 2.4 or newer",
        hint='pip install "numpy<2.4"',
        source="apple/coremltools#2633, #2755",
    ),
    Known(
        pattern=r"PyTorch convert function for op '?repeat_interleave'? not implemented"
        r"|repeat_interleave.*not (implemented|supported)",
        cause="the decoder repeats the image with `repeat_interleave`, which Core ML does not have",
        hint="export through effsam, whose decoder broadcasts instead",
        source="apple/coremltools#1895, #1769, #2207; ChaoningZhang/MobileSAM#16",
    ),
    Known(
        pattern=r"PyTorch convert function for op '?([\w.:]+)'? not implemented",
        cause="coremltools has no conversion for an operator of this graph",
        hint="`effsam lint MODEL --target coreml` names the operator's line and what to write",
        source="apple/coremltools#1769",
    ),
    Known(
        pattern=r"OneHot.*cannot be used to compute a shape tensor|/Tile.*invalid",
        cause="`repeat_interleave` became OneHot and Tile, which TensorRT does not take as a shape",
        hint="export through effsam, whose decoder broadcasts instead",
        source="mit-han-lab/efficientvit#70, #78; NVIDIA-AI-IOT/nanosam#12, #16",
    ),
    Known(
        pattern=r"orig_im_size.*shape tensor|shape tensor.*orig_im_size",
        cause="the image size is an input that decides shapes",
        hint="leave `orig_im_size` out of the graph and resize masks in the app",
        source="vietanhdev/samexporter#31; NVIDIA/TensorRT#2968",
    ),
    Known(
        pattern=r"cudaError 35|CUDA driver version is insufficient for CUDA runtime",
        cause="the NVIDIA driver is missing or older than this TensorRT wants",
        hint="update the driver; building a TensorRT-RTX engine needs none",
        source="seen here (RTX 1.7.1 without a driver)",
    ),
    Known(
        pattern=r"FP32 GEMM is not supported|for Turing \(SM75\)",
        cause="Turing GPUs (compute capability 7.5) have no FP32 matrix products in TensorRT-RTX",
        hint="export in FP16, or leave 75 out of `compute_capabilities`",
        source="seen here (RTX 1.7.1)",
    ),
    Known(
        pattern=r"must have same input types\. But they are of types (Half|Float|BFloat16) and "
        r"(Half|Float|BFloat16)",
        cause="a node gets FP16 and FP32 at once, which a strongly typed network does not cast "
        "by itself",
        hint="a cast is missing in the graph: report it with the node's name",
        source="seen here (RTX 1.7.1)",
    ),
    Known(
        pattern=r"Plugin not found|plugin creator .*was not found",
        cause="TensorRT does not have an operator of this graph",
        hint="`effsam lint MODEL --target tensorrt` names the operator's line and what to write",
        source="seen here: custom domain, NonZero",
    ),
    Known(
        pattern=r"ScatterND with reduction is not supported",
        cause="TensorRT's ScatterND only overwrites",
        hint="write the sum as a product with a mask, or set `reduction` to none",
        source="seen here",
    ),
    Known(
        pattern=r"missing values for shape input tensor (\S+)|no optimization profile has been "
        r"defined",
        cause="an input decides shapes, or a dynamic input has no range",
        hint="leave sizes such as `orig_im_size` out of the graph; give every dynamic input a "
        "range",
        source="seen here; vietanhdev/samexporter#31",
    ),
    Known(
        pattern=r"no tactics to implement the operation within workspace limit|insufficient "
        r"workspace",
        cause="the workspace that the builder may use is too small for a layer",
        hint="raise `workspace_mib` (0 is no limit)",
        source="seen here (1 byte of workspace)",
    ),
    Known(
        pattern=r"mismatched inputs : .*ONNXTRT_ShapeElementWise"
        r"|isInFlight\(p\.second\.symbolicRep\)",
        cause="a shape is computed from data, as by `repeat_interleave` (OneHot, Tile) or a "
        "size given as a float",
        hint="broadcast instead, and keep sizes out of the graph",
        source="seen here; nanosam#12, efficientvit#78",
    ),
    Known(
        pattern=r"Could not find any implementation for node",
        cause="TensorRT found no kernel for a layer, often because GPU memory ran out",
        hint="free the GPU's memory, set another `workspace_mib` in the target's options, or use a "
        "newer TensorRT",
        source="NVIDIA/TensorRT#4258; NVIDIA-AI-IOT/nanosam#6",
    ),
    Known(
        pattern=r"serialized engine.*(version|compatib)|plan file.*(version|incompatible)"
        r"|magicTag|Version tag does not match|incompatible serialization version"
        r"|plan\.header\.size == blobSize",
        cause="an engine only works with the TensorRT version and GPU that it was built for",
        hint="build it again on the device, from the ONNX file in the bundle",
        source="NVIDIA/TensorRT#70, #292, #818; open-mmlab/mmdeploy#1231",
    ),
    Known(
        pattern=r"Flex(Delegate| ops?\b)|flex delegate|SELECT_TF_OPS",
        cause="the graph needs TensorFlow operators that TFLite does not have by itself",
        hint="`effsam lint MODEL --target tflite` names them; fixed shapes often avoid them",
        source="ChaoningZhang/MobileSAM#141; PINTO0309/onnx2tf#543",
    ),
    Known(
        pattern=r"ANECCompile\(\) FAILED",
        cause="the Neural Engine's compiler gave up on the graph",
        hint="lower ranks and split large reshapes, or choose other compute units in the target",
        source="apple/coremltools#1548",
    ),
    Known(
        pattern=r"exceeds? (the )?maximum protobuf size|2147483648|larger than 2 ?GB|"
        r"Failed to serialize proto",
        cause="a file would be larger than the 2 GB that protobuf allows",
        hint="export components one by one; ViT-H needs weights outside the file",
        source="vietanhdev/samexporter, sam_onnx_full_export#3",
    ),
    Known(
        pattern=r"torchvision::nms does not exist",
        cause="the installed torchvision does not belong to the installed torch",
        hint="pip uninstall torchvision; effsam does not need it",
        source="seen here",
    ),
    Known(
        pattern=r"module 'onnx' has no attribute",
        cause="a file or folder called `onnx` hides the package",
        hint="rename it, or start from another folder",
        source="CASIA-IVA-Lab/FastSAM#264",
    ),
    Known(
        pattern=r"UnpicklingError|Weights only load failed",
        cause="the checkpoint is a pickle that runs code when it is loaded",
        hint="give it to `effsam export --checkpoint`, which reads the tensors and runs nothing",
        source="CASIA-IVA-Lab/FastSAM, torch 2.6",
    ),
)


def explain(log: str) -> Known | None:
    """The first known message that is in a log, or None."""
    return next((m for m in MESSAGES if re.search(m.pattern, log)), None)
