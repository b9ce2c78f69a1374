"""The table of layouts: bundles with the inputs, outputs and files that an existing app expects.

A target names its layout (`layout = "anylabeling"`). A layout turns a model into one whose
components are the app's graphs, and whose feeds and masks are the app's own steps before and after
them. So an export is compared with PyTorch as the app would show it, and `effsam run` shows the
app's mask. A new layout is a module here, a line in the table and a name in `spec/targets.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from effsam_export.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import LayoutName, Precision

PACKAGE = "effsam_export.layouts"
LAYOUTS: dict[LayoutName, str] = {
    "anylabeling": f"{PACKAGE}.anylabeling",
    "x-anylabeling": f"{PACKAGE}.x_anylabeling",
    "transformers-js": f"{PACKAGE}.transformers_js",
}


class Layout(Protocol):
    """The module of a layout."""

    APP: str
    """Name of the app."""
    MERGES: bool
    """Whether a folder can hold graphs of several precisions, under different names."""
    USE: tuple[str, ...]
    """How the app takes the folder: lines of Markdown for the README of a bundle."""

    def fault(self, model: ModelSpec) -> tuple[str, str] | None:
        """Return why the app cannot have a model, and a hint; None if it can."""
        ...

    def applied(self, model: ModelSpec) -> ModelSpec:
        """Return a model without faults with the app's components, preprocessing and masks."""
        ...

    def paths(self, precision: Precision) -> Mapping[str, str]:
        """Return component -> path of its ONNX file in the bundle."""
        ...

    def files(self, model: ModelSpec, precisions: Sequence[Precision]) -> Mapping[str, str]:
        """Return path -> content of the app's other files: configurations.

        Args:
            model: Before or after `applied`.
            precisions: Those of the graphs in the folder; several only if the layout `MERGES`.
        """
        ...


def load(name: str) -> Layout:
    """Return the module of a layout.

    Raises:
        UnknownNameError: The name is not in the table.
    """
    if name not in LAYOUTS:
        raise UnknownNameError("layout", name, LAYOUTS)
    return cast("Layout", import_module(LAYOUTS[name]))


def in_layout(model: ModelSpec, name: str | None) -> ModelSpec:
    """Return a model as an app takes it; unchanged without a layout.

    Raises:
        UnknownNameError: There is no such layout.
        UsageError: The app cannot have this model, or not in this size.
    """
    if name is None:
        return model
    layout = load(name)
    if fault := layout.fault(model):
        raise UsageError(fault[0], hint=fault[1])
    return layout.applied(model)
