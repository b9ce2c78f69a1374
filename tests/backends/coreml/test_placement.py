"""Counting the devices of a hand-made compute plan; a real one needs a Mac."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

pytest.importorskip("coremltools")

from effsam_export.backends.coreml import placement
from effsam_export.backends.coreml import sdk as coreml_sdk

pytestmark = pytest.mark.backend


class MLCPUComputeDevice:
    """Named as coremltools' own."""


class MLGPUComputeDevice:
    """Named as coremltools' own."""


class MLNeuralEngineComputeDevice:
    """Named as coremltools' own."""


CPU, GPU, ENGINE = MLCPUComputeDevice(), MLGPUComputeDevice(), MLNeuralEngineComputeDevice()


@dataclass
class Usage:
    preferred_compute_device: object
    supported_compute_devices: list[object]


class Plan:
    """A plan from a table: operation -> usage and weight."""

    def __init__(self, table: dict[str, tuple[Usage | None, float | None]]) -> None:
        self.table = table

    def get_compute_device_usage_for_mlprogram_operation(
        self, operation: SimpleNamespace
    ) -> Usage | None:
        return self.table[operation.operator_name][0]

    def get_estimated_cost_for_mlprogram_operation(
        self, operation: SimpleNamespace
    ) -> SimpleNamespace | None:
        weight = self.table[operation.operator_name][1]
        return None if weight is None else SimpleNamespace(weight=weight)


TABLE: dict[str, tuple[Usage | None, float | None]] = {
    "ios17.conv": (Usage(ENGINE, [CPU, GPU, ENGINE]), 0.4),
    "ios17.softmax": (Usage(GPU, [CPU, GPU, ENGINE]), 0.2),
    "ios16.layer_norm": (Usage(CPU, [CPU]), 0.1),
    "ios17.shape": (None, None),
    "const": (None, None),
}


def operations(*names: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(operator_name=n) for n in names]


def test_preferred_and_supported_devices_are_counted() -> None:
    found = placement.count(Plan(TABLE), operations("ios17.conv", "ios17.softmax", "ios17.conv"))
    assert found.preferred == {"gpu": 1, "neural engine": 2}
    assert found.supported == {"cpu": 3, "gpu": 3, "neural engine": 3}
    assert found.elsewhere == {"softmax": 1}
    assert found.work == pytest.approx({"gpu": 0.2, "neural engine": 0.8})


def test_operation_that_the_plan_does_not_cover() -> None:
    found = placement.count(Plan(TABLE), operations("ios17.shape", "ios16.layer_norm"))
    assert found.preferred == {"cpu": 1, "undecided": 1}
    assert found.supported == {"cpu": 1}
    assert found.elsewhere == {"layer_norm": 1, "shape": 1}
    assert found.work == {"cpu": 0.1}


def test_constants_do_not_count() -> None:
    found = placement.count(Plan(TABLE), operations("const", "const"))
    assert found == placement.Placement(preferred={}, supported={}, work={}, elsewhere={})


def test_unknown_device_keeps_its_class_name() -> None:
    assert placement.device_name(SimpleNamespace()) == "SimpleNamespace"


def test_devices_are_classes_of_coremltools() -> None:
    coreml_sdk.load()
    from coremltools.models import compute_device

    assert {n for n in dir(compute_device) if n.startswith("ML")} - {"MLComputeDevice"} == set(
        placement.DEVICES
    )
