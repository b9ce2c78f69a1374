"""Count on which device Core ML plans to run each operation of a package. Needs macOS.

Core ML may prefer the CPU or GPU for an operation that the Neural Engine supports, to avoid copies
between devices. Unverified: `placement` has not run on a Mac; tests count hand-made plans.
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
    # Class in `coremltools.models.compute_device` -> short name
    "MLCPUComputeDevice": "cpu",
    "MLGPUComputeDevice": "gpu",
    "MLNeuralEngineComputeDevice": "neural engine",
}
UNDECIDED = "undecided"
"""Device of an operation that the plan does not cover."""


class Usage(Protocol):
    """The devices of one operation in a plan."""

    @property
    def preferred_compute_device(self) -> object:
        """Return the device that Core ML plans to use."""
        ...

    @property
    def supported_compute_devices(self) -> Iterable[object]:
        """Return the devices that could run the operation."""
        ...


class Plan(Protocol):
    """The part of `MLComputePlan` that is used here."""

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Usage | None:  # noqa: ANN401
        """Return the devices of an operation, or None if the plan does not cover it."""
        ...

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:  # noqa: ANN401
        """Return an object whose `weight` is the operation's share of the cost, or None."""
        ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Number of operations of one function by device, without constants.

    Attributes:
        preferred: Device -> operations that Core ML plans to run there.
        supported: Device -> operations that could run there.
        work: Device -> share of the estimated cost, 0 to 1.
        elsewhere: Kind of operation -> number of those not planned for the Neural Engine.
    """

    preferred: Mapping[str, int]
    supported: Mapping[str, int]
    work: Mapping[str, float]
    elsewhere: Mapping[str, int]


def count(plan: Plan, operations: Iterable[Any]) -> Placement:
    """Count the operations of a function by device.

    Args:
        plan: A compute plan.
        operations: The operations of the function's block.
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
    """Return the short name of a compute device; of an unknown one, the name of its class."""
    kind = type(device).__name__
    return DEVICES.get(kind, kind)


def placement(package: Path, *, units: str) -> dict[str, Placement]:
    """Count the operations of each function of a package by device on this Mac.

    Unverified: this function has not run on a Mac.

    Args:
        package: The `.mlpackage` directory, which is compiled in a temporary directory.
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
