"""Compile an IR or ONNX file in OpenVINO, for the asked device or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from effsam_export.backends.openvino import bf16
from effsam_export.errors import CheckFailed
from effsam_export.spec.tensors import ReportedTensor, Signature
from effsam_export.util import cpu
from effsam_export.util.reasons import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from effsam_export.spec.tensors import Feeds

VIRTUAL = ("AUTO", "MULTI", "HETERO", "BATCH")
"""Devices that stand for others, which may follow them: `AUTO`, `HETERO:GPU,CPU`."""


class OpenvinoSession:
    """A graph compiled for one device.

    Args:
        path: The `.xml` of an IR, or an ONNX file.
        device: Device as OpenVINO names it.
        inference_precision: Floating-point type of the arithmetic, as `f32`.
        threads: Threads of the device `CPU`; None for OpenVINO's own number.

    Raises:
        CheckFailed: OpenVINO cannot compile the graph for the device, or compiled it for another.
    """

    def __init__(
        self, path: Path, device: str, inference_precision: str, threads: int | None = None
    ) -> None:
        self._name = path.name
        settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": inference_precision}
        if threads is not None and device == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model: Any = openvino.Core().compile_model(str(path), device, settings)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CheckFailed(
                f"OpenVINO cannot compile `{path.name}` for device `{device}` and precision "
                f"`{inference_precision}`: {reason(error)}",
                hint=f"OpenVINO has {listed(openvino.Core().available_devices)} here; if the "
                "device is among them, the graph is damaged",
            ) from error
        check_device(device, execution_devices(self._model))
        if inference_precision == "bf16" and cpu.has_bf16():
            check_bf16(path.name, {x.precision for x in bf16.executed_layers(self._model)})

    @property
    def compiled(self) -> Any:  # noqa: ANN401 - an object without types
        """The compiled model."""
        return self._model

    def run(self, feeds: Feeds) -> Feeds:
        """Run once; return the outputs by name.

        Raises:
            CheckFailed: OpenVINO cannot run the graph on these inputs.
        """
        try:
            results = self._model(dict(feeds))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CheckFailed(f"OpenVINO cannot run `{self._name}`: {reason(error)}") from error
        # Copies: the arrays belong to the infer request, which the next call overwrites.
        return {port.get_any_name(): np.array(value) for port, value in results.items()}

    def signature(self) -> Signature:
        """Return the graph's inputs and outputs."""
        return Signature(
            inputs=tuple(reported(port) for port in self._model.inputs),
            outputs=tuple(reported(port) for port in self._model.outputs),
        )


def execution_devices(model: Any) -> list[str]:  # noqa: ANN401 - an object without types
    """Return the devices on which a compiled model runs, as `GPU.0`.

    AUTO puts a device in brackets that it uses until another has compiled the graph.
    """
    found = model.get_property("EXECUTION_DEVICES")
    names = found.split() if isinstance(found, str) else found
    return [str(name).strip("()") for name in names]


def check_bf16(name: str, precisions: Collection[str]) -> None:
    """Check that a model which was to be compiled for BF16 has layers in BF16.

    Args:
        name: Name of the file.
        precisions: Types of arithmetic of its layers; none if it has no layers.

    Raises:
        CheckFailed: No layer is computed in BF16.
    """
    if precisions and "bf16" not in precisions:
        raise CheckFailed(
            f"the target asks OpenVINO for BF16, and it computes `{name}` in "
            f"{listed(sorted(precisions))}",
            hint="a GPU and some versions of OpenVINO have no BF16; export with --precision fp32",
        )


def check_device(asked: str, given: Sequence[str]) -> None:
    """Check that a model runs only on the devices that its target names.

    `GPU` allows `GPU.0`, `AUTO` every device, `AUTO:GPU,CPU` these two, `AUTO:-CPU` all but CPU.

    Raises:
        CheckFailed: It runs on another device.
    """
    first, _, rest = asked.partition(":")
    # A number of requests may follow a name: `MULTI:GPU(4),CPU`.
    named = [n.partition("(")[0] for n in rest.split(",") if n] if first in VIRTUAL else [asked]
    allowed = [n for n in named if not n.startswith("-")]
    denied = [n[1:] for n in named if n.startswith("-")]
    others = [g for g in given if (allowed and not is_one_of(g, allowed)) or is_one_of(g, denied)]
    if others or not given:
        raise CheckFailed(
            f"the target asks OpenVINO for device `{asked}`, and it gives {listed(given)}",
            hint="install the device's driver, or export with --option device=CPU",
        )


def is_one_of(device: str, names: Sequence[str]) -> bool:
    """Return whether a device, as `GPU.0`, is one of the named ones, as `GPU`."""
    return any(device == name or device.startswith(f"{name}.") for name in names)


def listed(names: Sequence[str]) -> str:
    """Return names in backticks, separated by commas."""
    return ", ".join(f"`{name}`" for name in names) or "no device"


def reason(error: Exception) -> str:
    """Return what OpenVINO says of an error, without the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith("Exception from ")]
    text = reasons[0] if reasons else type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def reported(port: Any) -> ReportedTensor:  # noqa: ANN401 - an object without types
    """Return an input or output of a compiled model."""
    return ReportedTensor(
        name=str(port.get_any_name()),
        shape=tuple(
            size.get_length() if size.is_static else None for size in port.get_partial_shape()
        ),
        dtype=np.dtype(port.get_element_type().to_dtype()).name,
    )
