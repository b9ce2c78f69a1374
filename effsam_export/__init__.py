"""Export efficient Segment-Anything models, with proof that they still segment.

``load`` opens a bundle as a predictor, ``export`` exports a model to one. They are imported when
they are first used, so that importing the package stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export._version import __version__

if TYPE_CHECKING:
    from effsam_export.inference.predictor import load
    from effsam_export.pipeline.export_model import export_model as export

__all__ = ["__version__", "export", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from effsam_export.inference.predictor import load

        return load
    if name == "export":
        from effsam_export.pipeline.export_model import export_model

        return export_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
