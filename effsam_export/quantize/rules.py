"""How each backend's INT8 toolchain rounds activations. Readable without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class RoundingRules:
    """The rules by which a layer with the treatment `w8a8` is rounded.

    Weights are symmetric in all backends, with one scale for each output channel.

    Attributes:
        symmetric: An activation's range is symmetric around zero; else it only includes zero.
        dynamic: Ranges are those of the call: of each row of a linear layer's input, and of each
            image of a convolution's. Else each tensor has one range, that of the calibration.
        outputs: The output of a convolution is rounded too.
        grouped: Grouped convolutions can have INT8 activations.
        activations: Any layer can have INT8 activations.
    """

    symmetric: bool = False
    dynamic: bool = False
    outputs: bool = False
    grouped: bool = True
    activations: bool = True


RULES: Mapping[str, RoundingRules] = {
    "onnx": RoundingRules(outputs=True),
    "openvino": RoundingRules(),
    "coreml": RoundingRules(),
    "tflite": RoundingRules(dynamic=True, grouped=False),
    "tensorrt": RoundingRules(symmetric=True),
    "tensorrt-rtx": RoundingRules(symmetric=True),
}
"""Backend -> its rules, as the modules `backends/*/quantize*` apply them."""
WEIGHTS_ONLY = ("iOS15", "iOS16")
"""Core ML's deployment targets that have no INT8 activations."""


def rules_of(backend: str, options: Mapping[str, str | int | float | bool]) -> RoundingRules:
    """Return the rules of a target.

    Args:
        backend: Name of its backend.
        options: Options of the target.
    """
    rules = RULES[backend]
    if backend == "coreml" and options.get("deployment_target") in WEIGHTS_ONLY:
        return replace(rules, activations=False)
    return rules
