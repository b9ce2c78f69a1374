"""The table of rules, and which rules apply to which kind of target.

To add a rule, add a function to the module of its family and a line to `RULES`, and its name to the
kinds of targets in `APPLIES`.
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
        fp16: Applies only if the target computes in FP16.
        measured: Needs measured values.
        why: What the target does with a hit, as a sentence.
        rewrite: How to fix it.
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
        why="the GPU delegate supports four axes; with more it gives wrong values or uses the CPU "
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
        why="the Neural Engine supports four axes; with five the operator runs on the GPU or CPU",
        rewrite="merge axes before the transpose, or split q, k and v before the heads",
    ),
    "dynamic-input": Rule(
        check=sizes.dynamic_inputs,
        severity="error",
        why="this target needs fixed sizes (apple/coremltools#1764: flexible shapes leave the "
        "Neural Engine; TFLite: a dynamic tensor leaves every delegate)",
        rewrite="give the target `slots`, so that prompts are padded to a fixed number",
    ),
    "data-dependent": Rule(
        check=sizes.data_dependent,
        severity="error",
        why="a size that depends on values is a shape tensor in TensorRT and not supported in "
        "Core ML and TFLite (vietanhdev/samexporter#31)",
        rewrite="select by arithmetic (`mask * a + (1 - mask) * b`), and resize in the host code",
    ),
    "dynamic-resize": Rule(
        check=sizes.dynamic_resize,
        severity="error",
        why="resizing to a computed size does not convert (THU-MIG/RepViT#28)",
        rewrite="resize to a fixed size, and to the original size in the host code",
    ),
    "bicubic-resize": Rule(
        check=sizes.bicubic_resize,
        severity="error",
        why="this target has no bicubic interpolation",
        rewrite="resize to a fixed size without antialiasing, which is two products with constants",
    ),
    "repeat-interleave": Rule(
        check=sizes.repeat_interleave,
        severity="error",
        why="it becomes OneHot and Tile, which TensorRT refuses to build and Core ML converts only "
        "for a fixed number (NVIDIA-AI-IOT/nanosam#6, apple/coremltools#1895)",
        rewrite="broadcast: a batch of one and a batch of B need no copies",
    ),
    "dynamic-tile": Rule(
        check=sizes.dynamic_tile,
        severity="error",
        why="tiling by a computed number does not convert (yformer/EfficientSAM#52)",
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
        rewrite="use other operators",
    ),
    "tflite-operator": Rule(
        check=kernels.tflite_operators,
        severity="error",
        why="TFLite has no builtin for it: the conversion fails or the app needs Flex",
        rewrite="compute it in the host code or with core operators",
    ),
    "coreml-operator": Rule(
        check=kernels.core_ml_operators,
        severity="error",
        why="coremltools does not convert it",
        rewrite="compute it in the host code or with core operators",
    ),
    "fp16-operator": Rule(
        check=kernels.fp16_operators,
        severity="warning",
        why="some runtimes have no FP16 kernel for it, so it costs two casts",
        rewrite="use other operators, or accept it if its tensors are small",
        fp16=True,
    ),
    "tiny-eps": Rule(
        check=numbers.tiny_eps,
        severity="warning",
        why="it is 0 in FP16 (below 6.0e-8, on many accelerators below 6.1e-5), and 0 / 0 is NaN "
        "(mit-han-lab/efficientvit#113)",
        rewrite="scale dividend and divisor by a power of two, or keep the division in FP32",
        fp16=True,
    ),
    "huge-constant": Rule(
        check=numbers.huge_constants,
        severity="error",
        why="FP16 ends at 65504: the constant becomes Inf, and Inf - Inf and 0 * Inf are NaN",
        rewrite="use a number that FP16 can represent: exp(-30000) is 0 as well",
        fp16=True,
    ),
    "overflow": Rule(
        check=overflow.values,
        severity="error",
        why="FP16 ends at 65504: larger values become Inf",
        rewrite="divide the weights before it by a power of two if a norm follows, or keep it in "
        "FP32",
        fp16=True,
        measured=True,
    ),
    "norm-squares": Rule(
        check=overflow.squares,
        severity="warning",
        why="a norm squares its input, which exceeds 65504 in runtimes that compute it in FP16 "
        "(mit-han-lab/efficientvit#142)",
        rewrite="divide the input by a power of two and eps by its square (a norm is "
        "scale-invariant), or keep the norm in FP32",
        fp16=True,
        measured=True,
    ),
    "sums": Rule(
        check=overflow.sums,
        severity="warning",
        why="the sum before the division exceeds 65504 in runtimes that add in FP16",
        rewrite="divide by a power of two before the sum",
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
    """Return the kind of a target: its backend, or a part of it with its own rules."""
    options = target.options
    if target.backend == "tflite" and options.get("delegate") == "gpu":
        return "tflite-gpu"
    if target.backend == "coreml" and options.get("compute_units") == "CPU_ONLY":
        return "coreml-cpu"
    return target.backend


def rules_for(target: TargetProfile) -> tuple[str, ...]:
    """Return the names of the rules for a target in its precision, in the order of the table."""
    names = APPLIES[kind_of(target)]
    return tuple(
        name
        for name, rule in RULES.items()
        if name in names and (not rule.fp16 or target.precision == "fp16")
    )
