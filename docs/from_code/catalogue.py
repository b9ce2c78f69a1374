"""Tables of models and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docs.from_code.text import cell, code, table
from effsam_export import backends, models
from effsam_export.backends import messages
from effsam_export.config import int8_recipe
from effsam_export.config import targets as target_files
from effsam_export.models.costs import COSTS

if TYPE_CHECKING:
    from effsam_export.spec.targets import TargetProfile

OPTION_MEANINGS = {
    "provider": "execution provider of ONNX Runtime",
    "device": "device of OpenVINO, as `CPU` or `GPU`",
    "inference_precision": "precision OpenVINO computes in, as `f32`",
    "slots": "number of point slots of the decoder; shapes are fixed",
    "functions": "several slot counts in one package, as `2 4`; needs `deployment_target=iOS18`",
    "deployment_target": "oldest system that opens the package",
    "compute_units": "processors Core ML may use when the package runs on a Mac",
    "image_input": "the encoder takes a picture instead of a tensor",
    "num_threads": "threads of LiteRT on a CPU",
    "delegate": "`gpu` checks every operator against the rules of the GPU delegate",
    "max_rank": "largest number of dimensions of a tensor",
    "forbidden_ops": "operators that must not be in the file, separated by spaces",
    "single_file": "both components in one file, a signature each",
    "compute_capabilities": "GPUs the engine is compiled for, as `80 86 89`",
    "per_capability": "one engine for each compute capability",
    "max_images": "most images of one call of an encoder with a dynamic batch",
    "opt_images": "number of images the engine is tuned for",
    "max_prompts": "most prompts of one call; the decoder's memory grows with it",
    "opt_prompts": "number of prompts the engine is tuned for",
    "max_points": "most points of one prompt",
    "opt_points": "number of points the engine is tuned for",
    "workspace_mib": "memory the builder may use; 0 leaves it to TensorRT",
    "tf32": "allow TF32 products of FP32 values",
    "tensorrt": "oldest TensorRT the build kit takes",
}
"""Target option -> what it changes, for every option of every backend."""


def shipped_targets() -> list[TargetProfile]:
    """The target profiles of the package, each in its default precision."""
    return [target_files.load_target(name) for name in target_files.target_names()]


def models_table() -> str:
    """Return the models with state, licence, size and cost."""
    rows = []
    for name in models.names():
        spec, cost = models.get(name), COSTS.get(name)
        size = spec.weights.size if spec.weights else None
        rows.append(
            [
                code(name),
                cell(spec.title),
                cell(spec.state),
                cell(spec.licence.spdx) + (" (consent)" if spec.licence.restricted else ""),
                "-" if cost is None else f"{cost.parameters / 1e6:.1f}",
                "-" if cost is None else f"{cost.encoder_macs / 1e9:.0f}",
                "-" if size is None else f"{size / 1e6:.0f}",
            ]
        )
    header = ("name", "model", "state", "licence", "parameters, M", "GMACs", "checkpoint, MB")
    return table(header, rows)


def prompts() -> str:
    """Return what each model takes as image and prompt."""
    rows = []
    for name in models.names():
        spec = models.get(name)
        can = spec.prompts
        rows.append(
            [
                code(name),
                str(spec.preprocess.image_size),
                spec.preprocess.family,
                "yes" if can.negative_points else "no",
                "yes" if can.box else "no",
                "yes" if can.points_with_box else "no",
                "yes" if can.mask else "no",
                "any" if can.max_points is None else str(can.max_points),
                ", ".join(code(o) for o in spec.options) or "-",
            ]
        )
    header = (
        "name",
        "image size",
        "resizing",
        "background points",
        "box",
        "points with box",
        "mask",
        "points",
        "model options",
    )
    return table(header, rows)


def targets() -> str:
    """Return the targets with backend and precisions."""
    rows = [
        [code(t.name), code(t.backend), " ".join(t.precisions), cell(t.description)]
        for t in shipped_targets()
    ]
    return table(("target", "backend", "precisions, default first", "what it is"), rows)


def target_options() -> str:
    """Return the options of each target with their values.

    Raises:
        ValueError: An option of a backend has no meaning here.
    """
    known = {option for entry in backends.BACKENDS.values() for option in entry.options}
    if known != set(OPTION_MEANINGS):
        raise ValueError(f"options without a meaning: {sorted(known ^ set(OPTION_MEANINGS))}")
    parts = []
    for name, entry in backends.BACKENDS.items():
        of_backend = [t for t in shipped_targets() if t.backend == name]
        header = ("option", "meaning", *(code(t.name) for t in of_backend))
        rows = [
            [
                code(option),
                OPTION_MEANINGS[option],
                *(code(text_of(t.options.get(option))) or "-" for t in of_backend),
            ]
            for option in entry.options
        ]
        parts.append(f"### {name}\n\n{table(header, rows)}")
    return "\n".join(parts)


def text_of(value: object) -> str:
    """A value as `--option` takes it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def gates() -> str:
    """Return the gates of each precision, which are equal for all targets that ship.

    Raises:
        ValueError: Two targets have different gates for one precision.
    """
    rows: dict[str, list[str]] = {}
    for target in shipped_targets():
        for precision in target.precisions:
            g = target_files.load_target(target.name, precision).gates
            row = [f"{v:g}" for v in (g.mask_iou, g.mean_iou, g.score_error, g.cosine)]
            if rows.setdefault(precision, row) != row:
                raise ValueError(f"`{target.name}` has other gates for {precision}")
    header = ("precision", "`mask_iou`", "`mean_iou`", "`score_error`", "`cosine`")
    return table(header, [[p, *rows[p]] for p in target_files.PRECISIONS])


def int8_schemes() -> str:
    """Return what the shipped INT8 recipe of each model does for each backend."""
    names = {"w8a8": "`w8a8`", "weight_only": "`weight_only`"}
    rows = []
    for model in models.names():
        component = models.get(model).components[0].name
        plan = int8_recipe.load(model)
        schemes = [plan.recipe(component, backend).scheme for backend in backends.BACKENDS]
        rows.append([code(model), *(names.get(s, s) for s in schemes)])
    return table(("model", *(code(b) for b in backends.BACKENDS)), rows)


def converter_messages() -> str:
    """Return the known messages of converters with cause and remedy."""
    rows = [[cell(m.cause), cell(m.hint), cell(m.source)] for m in messages.MESSAGES]
    return table(("cause", "what to do", "seen in"), rows)
