"""Export efficient Segment-Anything models, with proof that they still segment.

``load`` opens a bundle as a predictor, ``export`` writes one. Both import what they need when they
are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from effsam_export.inference.predictor import Predictor
    from effsam_export.pipeline.export_model import ExportResult
    from effsam_export.util.progress import StageEvent

__all__ = ["__version__", "export", "load"]


def load(path: str | Path) -> Predictor:
    """Open a bundle, a directory or an ``.effsam.zip`` file, as a predictor.

    See ``Predictor`` for its calls and errors.
    """
    from effsam_export.inference.predictor import Predictor

    return Predictor(path)


def export(
    model: str,
    *,
    target: str,
    precision: str | None = None,
    output: str | Path | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    base: str | Path | None = None,
    lora: str | Path | None = None,
    lora_alpha: float | None = None,
    model_options: Mapping[str, float] | None = None,
    target_options: Mapping[str, str] | None = None,
    force: bool = False,
    accept_license: bool = False,
    cache_dir: str | Path | None = None,
    on_event: Callable[[StageEvent], None] | None = None,
) -> ExportResult:
    """Export a model for a target, check its masks, and write a bundle.

    See ``export_model.export_model`` for the arguments and errors.
    """
    from effsam_export.pipeline.export_model import export_model

    return export_model(
        model,
        target=target,
        precision=precision,
        output=output,
        checkpoint=checkpoint,
        checkpoint_key=checkpoint_key,
        base=base,
        lora=lora,
        lora_alpha=lora_alpha,
        model_options=model_options,
        target_options=target_options,
        force=force,
        accept_license=accept_license,
        cache_dir=cache_dir,
        on_event=on_event,
    )
