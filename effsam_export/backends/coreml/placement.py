"""Where Core ML means to run each operation of a package: a compute plan, which needs macOS.

`supported` is not `preferred`: Core ML may leave an operation that the Neural Engine supports on
the GPU or CPU, beside others that it does not. Unverified: no Mac has run `placement` so far; the
counting is tested on plans made by hand.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from effsam_export.backends.coreml import sdk as coreml_sdk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

DEVICES = {
    # Class in `coremltools.models.compute_device` -> name used here
    "MLCPUComputeDevice": "cpu",
    "MLGPUComputeDevice": "gpu",
    "MLNeuralEngineComputeDevice": "neural engine",
}
UNDECIDED = "undecided"
"""Of an operation the plan says nothing about; constants, for example."""


class Usage(Protocol):
    """What a plan says of one operation."""

    @property
    def preferred_compute_device(self) -> object:
        """The device Core ML will use."""
        ...

    @property
    def supported_compute_devices(self) -> Iterable[object]:
        """The devices that could."""
        ...


class Plan(Protocol):
    """The part of `MLComputePlan` that is read."""

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Usage | None:  # noqa: ANN401
        """Where an operation may and will run, or None if Core ML does not say."""
        ...

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:  # noqa: ANN401
        """An object whose `weight` is the operation's share of the work, or None."""
        ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Operations of one function by device, constants left out.

    Attributes:
        preferred: Device -> operations Core ML will run there.
        supported: Device -> operations that could run there.
        work: Device -> share of the estimated work it will do, 0 to 1.
        elsewhere: Kinds of operations that will not run on the Neural Engine, with their number.
    """

    preferred: Mapping[str, int]
    supported: Mapping[str, int]
    work: Mapping[str, float]
    elsewhere: Mapping[str, int]


def count(plan: Plan, operations: Iterable[Any]) -> Placement:
    """Count the operations of a function by device.

    Args:
        plan: A compute plan.
        operations: Of the function's block; of each, `operator_name` is read.
    """
    preferred, supported, elsewhere = Counter[str](), Counter[str](), Counter[str]()
    work = dict.fromkeys([*DEVICES.values(), UNDECIDED], 0.0)
    for operation in operations:
        kind = str(operation.operator_name).rpartition(".")[2]
        if kind == "const":
            continue
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        device = UNDECIDED if usage is None else device_name(usage.preferred_compute_device)
        preferred[device] += 1
        if usage is not None:
            supported.update({device_name(d) for d in usage.supported_compute_devices})
        if device != "neural engine":
            elsewhere[kind] += 1
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        work[device] += 0.0 if cost is None else float(cost.weight)
    return Placement(
        preferred=dict(sorted(preferred.items())),
        supported=dict(sorted(supported.items())),
        work={k: v for k, v in work.items() if v},
        elsewhere=dict(sorted(elsewhere.items())),
    )


def device_name(device: object) -> str:
    """Short name of a compute device; the class's own for one that is new."""
    kind = type(device).__name__
    return DEVICES.get(kind, kind)


def placement(package: Path, *, units: str) -> dict[str, Placement]:
    """Where each function of a package would run on this Mac. Unverified, see the module.

    Args:
        package: The `.mlpackage` directory; it is compiled for the purpose.
        units: Member of `coremltools.ComputeUnit`.
    """
    ct = coreml_sdk.load()
    from coremltools.models.compute_plan import MLComputePlan

    compiled = ct.models.utils.compile_model(str(package))
    try:
        plan = MLComputePlan.load_from_path(
            path=str(compiled), compute_units=getattr(ct.ComputeUnit, units)
        )
        functions = plan.model_structure.program.functions
        return {name: count(plan, f.block.operations) for name, f in functions.items()}
    finally:
        shutil.rmtree(compiled, ignore_errors=True)
