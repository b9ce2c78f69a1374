"""Every rule, and which rules hold for which kind of target.

A new rule is a function in a file of its family and a line in `RULES`; a kind of target lists the
rules that hold for it in `APPLIES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.lint import kernels, numbers, overflow, ranks, sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from effsam_export.lint.findings import Hit, Severity
    from effsam_export.lint.subject import Subject
    from effsam_export.spec.targets import TargetProfile


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        fp16: Holds only where the target computes in FP16.
        measured: Needs ranges.
        why: What a target makes of a hit, as a sentence.
        rewrite: What would mend it.
    """

    check: Callable[[Subject], Iterator[Hit]]
    severity: Severity
    why: str
    rewrite: str
    fp16: bool = False
    measured: bool = False


RULES: Mapping[str, Rule] = {
    "rank-4": Rule(
        check=ranks.delegate_rank,
        severity="error",
        why="the GPU delegate has four axes; above that it computes wrong values or leaves the GPU "
        "(google-ai-edge/litert-samples#289)",
        rewrite="merge axes before the transpose, or split q, k and v before the heads",
    ),
    "rank-stated": Rule(
        check=ranks.stated_rank,
        severity="error",
        why="the target file allows no more axes (`max_rank`)",
        rewrite="merge axes before the transpose, or split q, k and v before the heads",
    ),
    "rank-5": Rule(
        check=ranks.core_ml_rank,
        severity="error",
        why="Core ML has no tensor of more than five axes",
        rewrite="merge axes that stay together",
    ),
    "rank-engine": Rule(
        check=ranks.engine_rank,
        severity="warning",
        why="the Neural Engine wants four axes; a fifth sends the operator to the GPU or CPU",
        rewrite="merge axes before the transpose, or split q, k and v before the heads",
    ),
    "dynamic-input": Rule(
        check=sizes.dynamic_inputs,
        severity="error",
        why="this target wants every size fixed (apple/coremltools#1764: flexible shapes leave the "
        "Neural Engine; TFLite: a dynamic tensor leaves every delegate)",
        rewrite="give the target `slots`, so that prompts are padded to a fixed number",
    ),
    "data-dependent": Rule(
        check=sizes.data_dependent,
        severity="error",
        why="a size that depends on values is a shape tensor in TensorRT and not to be had in "
        "Core ML or TFLite (vietanhdev/samexporter#31)",
        rewrite="select by arithmetic (`mask * a + (1 - mask) * b`), and leave resizing to the "
        "caller",
    ),
    "dynamic-resize": Rule(
        check=sizes.dynamic_resize,
        severity="error",
        why="resizing to a size that is computed does not convert (THU-MIG/RepViT#28)",
        rewrite="resize to a fixed size, and leave the original size to the caller",
    ),
    "bicubic-resize": Rule(
        check=sizes.bicubic_resize,
        severity="error",
        why="this target has no bicubic interpolation",
        rewrite="resize to a fixed size without antialiasing: that is two products with constants",
    ),
    "repeat-interleave": Rule(
        check=sizes.repeat_interleave,
        severity="error",
        why="it becomes OneHot and Tile, which TensorRT refuses to build and Core ML converts only "
        "for a fixed number (NVIDIA-AI-IOT/nanosam#6, apple/coremltools#1895)",
        rewrite="broadcast: a batch of one times B needs no copies",
    ),
    "dynamic-tile": Rule(
        check=sizes.dynamic_tile,
        severity="error",
        why="tiling by a number that is computed does not convert (yformer/EfficientSAM#52)",
        rewrite="broadcast, or `expand` to the size of another tensor",
    ),
    "gpu-operator": Rule(
        check=kernels.delegate_operators,
        severity="error",
        why="the GPU delegate does not have it, so the graph is cut and the rest runs on the CPU",
        rewrite="index by constant tables made at export, broadcast inside the arithmetic, or "
        "select by arithmetic",
    ),
    "forbidden-operator": Rule(
        check=kernels.forbidden_operators,
        severity="error",
        why="the target file forbids it (`forbidden_ops`)",
        rewrite="say the same in other operators",
    ),
    "tflite-operator": Rule(
        check=kernels.tflite_operators,
        severity="error",
        why="TFLite has no builtin for it: the conversion fails, or the file needs Flex",
        rewrite="do it in the host code, or say the same in core operators",
    ),
    "coreml-operator": Rule(
        check=kernels.core_ml_operators,
        severity="error",
        why="coremltools does not convert it",
        rewrite="do it in the host code, or say the same in core operators",
    ),
    "fp16-operator": Rule(
        check=kernels.fp16_operators,
        severity="warning",
        why="it has no FP16 kernel everywhere, so it costs two casts",
        rewrite="say the same in other operators, or accept it where it is small",
        fp16=True,
    ),
    "tiny-eps": Rule(
        check=numbers.tiny_eps,
        severity="warning",
        why="FP16 loses it (nothing below 6.0e-8, few bits below 6.1e-5, and zero on many "
        "accelerators), and 0 / 0 is NaN (mit-han-lab/efficientvit#113)",
        rewrite="scale the divisor by a power of two that the quotient does not see, or keep the "
        "division in FP32",
        fp16=True,
    ),
    "huge-constant": Rule(
        check=numbers.huge_constants,
        severity="error",
        why="FP16 ends at 65504: it becomes Inf, and Inf - Inf or 0 * Inf is NaN",
        rewrite="take a number FP16 holds: exp of -30000 is 0 as well",
        fp16=True,
    ),
    "overflow": Rule(
        check=overflow.values,
        severity="error",
        why="FP16 ends at 65504, and beyond is Inf",
        rewrite="divide the weights before it by a power of two that a norm takes out again, or "
        "keep it in FP32",
        fp16=True,
        measured=True,
    ),
    "norm-squares": Rule(
        check=overflow.squares,
        severity="warning",
        why="a norm that computes in FP16 squares its input past 65504; whether it does is up to "
        "the runtime (mit-han-lab/efficientvit#142)",
        rewrite="divide the input by a power of two (a norm is scale-invariant, its eps by the "
        "square), or keep the norm in FP32",
        fp16=True,
        measured=True,
    ),
    "sums": Rule(
        check=overflow.sums,
        severity="warning",
        why="a runtime that adds up in FP16 passes 65504 before the division",
        rewrite="divide before the sum, by a power of two",
        fp16=True,
        measured=True,
    ),
}

FP16_RULES = ("tiny-eps", "huge-constant", "overflow", "norm-squares", "sums")
STATIC = ("dynamic-input", "data-dependent", "dynamic-resize", "bicubic-resize")
REPEATS = ("repeat-interleave", "dynamic-tile")
TFLITE = (*STATIC, *REPEATS, "rank-stated", "tflite-operator", "forbidden-operator")
CORE_ML = (*STATIC, *REPEATS, "rank-5", "coreml-operator")
TENSORRT = ("data-dependent", "dynamic-resize", "repeat-interleave", "fp16-operator")

APPLIES: Mapping[str, tuple[str, ...]] = {
    # kind of target -> rules
    "onnx": ("fp16-operator", *FP16_RULES),
    "openvino": ("fp16-operator", *FP16_RULES),
    "tensorrt": (*TENSORRT, *FP16_RULES),
    "tensorrt-rtx": (*TENSORRT, *FP16_RULES),
    "coreml": (*CORE_ML, "rank-engine", *FP16_RULES),
    "coreml-cpu": (*CORE_ML, *FP16_RULES),
    "tflite": (*TFLITE, *FP16_RULES),
    "tflite-gpu": (*TFLITE, "rank-4", "gpu-operator", *FP16_RULES),
}


def kind_of(target: TargetProfile) -> str:
    """The kind of a target: its backend, and the part of it that has rules of its own."""
    options = target.options
    if target.backend == "tflite" and options.get("delegate") == "gpu":
        return "tflite-gpu"
    if target.backend == "coreml" and options.get("compute_units") == "CPU_ONLY":
        return "coreml-cpu"
    return target.backend


def rules_for(target: TargetProfile) -> tuple[str, ...]:
    """Names of the rules that hold for a target in its precision, in the order of the table."""
    names = APPLIES[kind_of(target)]
    return tuple(
        name
        for name, rule in RULES.items()
        if name in names and (not rule.fp16 or target.precision == "fp16")
    )
