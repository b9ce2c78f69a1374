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
        pattern=r"Could not find any implementation for node",
        cause="TensorRT found no kernel for a layer, often because GPU memory ran out",
        hint="free the GPU, lower `workspace_mib` in the target's options, or use a newer TensorRT",
        source="NVIDIA/TensorRT#4258; NVIDIA-AI-IOT/nanosam#6",
    ),
    Known(
        pattern=r"serialized engine.*(version|compatib)|plan file.*(version|incompatible)"
        r"|magicTag|Version tag does not match",
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
