"""The result of a search for an INT8 recipe: recipe, evidence, and the file that keeps a search."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from effsam_export._version import __version__
from effsam_export.config.calibration import hashes
from effsam_export.config.int8_recipe import Int8Plan, recipe_from
from effsam_export.config.int8_recipe import document as recipe_document
from effsam_export.errors import OutputError
from effsam_export.pipeline.int8_steps import Measured, Step
from effsam_export.pipeline.stage_keys import code_hash
from effsam_export.spec.int8 import TREATMENTS, Int8Recipe, LayerOverride
from effsam_export.util import installed
from effsam_export.util.files import write_whole
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from effsam_export.pipeline.int8_steps import Found
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.quantize.ladder import Rung, Sensitivity
    from effsam_export.spec.int8 import Optimize, Treatment

FORMAT = 2
"""Of the file; another one is not read."""
SOURCE = "effsam export --int8"
TOOLS = ("torch", "onnx", "onnxruntime", "numpy")
"""Packages that take part in every search, besides those of the backend."""


def recipe_of(rung: Rung, layers: Sequence[Sensitivity]) -> Int8Recipe:
    """Return the recipe that treats each layer as a rung does; other layers are weight-only."""
    by_path = {layer.path: layer for layer in layers}
    overrides: list[LayerOverride] = []
    pairs: tuple[tuple[Treatment, Treatment], ...] = (
        ("w8a8", "w8a8"),
        ("keep_float", "weight_only"),
    )
    for treatment, rounded_as in pairs:
        paths = tuple(p for p, t in rung.treatments.items() if t == treatment)
        if paths:
            found = sorted(by_path[p].sqnr_db[rounded_as] for p in paths)
            overrides.append(
                LayerOverride(
                    modules=paths,
                    treatment=treatment,
                    reason=f"found by a search; SQNR of the layers in {rounded_as}: "
                    f"{found[0]:.1f} to {found[-1]:.1f} dB",
                    source=SOURCE,
                    recursive=False,
                )
            )
    return Int8Recipe(scheme="weight_only", overrides=tuple(overrides))


def plan_of(
    plan: ExportPlan, component: str, recipe: Int8Recipe, search: Mapping[str, Any] | None
) -> Int8Plan:
    """Return the recipes of an export in which one component has another recipe.

    Args:
        plan: The export.
        component: The component.
        recipe: Its recipe.
        search: How it was found, as values for a manifest.
    """
    assert plan.int8 is not None
    own = plan.int8.plan
    recipes: dict[tuple[str, str], Int8Recipe] = {
        (c.name, "default"): own.recipe(c.name, plan.target.backend) for c in plan.components
    }
    recipes[component, "default"] = recipe
    return Int8Plan(
        name="search",
        measured="",
        recipes=recipes,
        search=search,
    )


def evidence_of(
    optimize: Optimize,
    component: str,
    aim: Mapping[str, float],
    layers: Sequence[Sensitivity],
    rungs: Sequence[Rung],
    found: Found,
) -> dict[str, Any]:
    """Return how a recipe was found, as values for a manifest: equal searches give equal ones.

    Args:
        optimize: What the search preferred.
        component: The component that was searched.
        aim: The aim of the search.
        layers: Their sensitivities.
        rungs: The recipes of the series.
        found: The result of the search.
    """
    chosen = found.chosen
    return {
        "optimize": optimize,
        "component": component,
        "aim": dict(aim),
        "aim_met": chosen is not None and chosen.measured.meets_aim,
        "gates_met": chosen is not None and chosen.measured.meets_gates,
        "complete": found.complete,
        "recipes": len(rungs),
        "steps": [
            {**step_document(step, rungs), "chosen": step.rung == found.rung}
            for step in found.steps
        ],
        "layers": [
            {
                "module": layer.path,
                "weights": layer.weights,
                "macs": layer.macs,
                "sqnr_db": {
                    name: round(db, 2) if math.isfinite(db) else None
                    for name, db in layer.sqnr_db.items()
                },
                "gain": float(f"{layer.gain:.3g}"),
                "treatment": rungs[found.rung].treatments[layer.path],
            }
            for layer in layers
        ],
    }


def step_document(step: Step, rungs: Sequence[Rung]) -> dict[str, Any]:
    """Return a confirmed recipe, what was predicted and what was measured."""
    rung = rungs[step.rung]
    treatments = list(rung.treatments.values())
    return {
        "layers": {t: treatments.count(t) for t in TREATMENTS},
        "size": round(rung.size, 4),
        "time": round(rung.time, 4),
        "predicted_db": round(step.predicted_db, 2),
        "measured": asdict(step.measured),
    }


def key_of(plan: ExportPlan, weights_sha256: str, component: str) -> str:
    """Return the hash of everything that the result of a search depends on, except its time."""
    from effsam_export import backends

    request, target = plan.int8, plan.target
    assert request is not None
    assert request.search is not None
    entry, calibration = backends.BACKENDS[target.backend], request.calibration
    tools = dict.fromkeys((*TOOLS, *entry.packages, *filter(None, (entry.quantizer,))))
    parts = [
        FORMAT,
        __version__,
        code_hash(),
        *(f"{name} {installed.version_of(name)}" for name in tools),
        weights_sha256,
        plan.model.name,
        sorted(plan.model.options.items()),
        plan.model.preprocess,
        [(c.name, c.inputs) for c in plan.components],
        component,
        (target.backend, target.opset, target.layout, sorted(target.options.items())),
        target.gates,
        # The paths of the images do not matter, only their contents.
        {**asdict(calibration), "images": sorted(hashes(calibration.images).values())},
        [(i.cases, i.value_range, hashes([i.path])) for i in plan.parity_images],
        sorted(request.plan.recipes.items()),
        request.search.optimize,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a search: the result, and the confirmations of a search that was cut short.

    Attributes:
        path: The file; None to keep nothing.
        on_note: Called with a sentence if the file cannot be written.
    """

    path: Path | None
    on_note: Callable[[str], None]

    def result(self) -> Int8Plan | None:
        """Return the recipes that an earlier search found; None if it did not end."""
        document = self._read()
        if "recipes" not in document:
            return None
        recipes = {(name, "default"): recipe_from(r) for name, r in document["recipes"].items()}
        return Int8Plan(name="search", measured="", recipes=recipes, search=document["search"])

    def steps(self) -> dict[str, Step]:
        """Return the confirmations by the name of their recipe."""
        return {
            name: Step(**{**step, "measured": Measured(**step["measured"])})
            for name, step in self._read().get("steps", {}).items()
        }

    def add(self, name: str, step: Step) -> None:
        """Keep one confirmation."""
        known = {n: asdict(s) for n, s in self.steps().items()}
        self._write({**self._read(), "steps": {**known, name: asdict(step)}})

    def gains(self) -> dict[str, float]:
        """Return the gain of each layer; empty if none was measured."""
        return dict(self._read().get("gains", {}))

    def add_gains(self, gains: Mapping[str, float]) -> None:
        """Keep the gain of each layer."""
        self._write({**self._read(), "gains": dict(gains)})

    def finish(self, found: Int8Plan) -> None:
        """Keep the result of a search."""
        recipes = {name: recipe_document(recipe) for (name, _), recipe in found.recipes.items()}
        self._write({**self._read(), "recipes": recipes, "search": found.search})

    def _read(self) -> dict[str, Any]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            document = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            # A damaged file is written anew.
            return {}
        return document if isinstance(document, dict) and document.get("format") == FORMAT else {}

    def _write(self, document: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        text = json.dumps({**document, "format": FORMAT}, indent=1, sort_keys=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text.encode())
        except (OSError, OutputError) as error:
            reason = error.message if isinstance(error, OutputError) else reason_of(error)
            self.on_note(f"the search is not kept in `{self.path.parent}`: {reason}")


def name_of(rung: Rung) -> str:
    """Return the name of a recipe in the file."""
    text = ",".join(f"{path}={treatment}" for path, treatment in sorted(rung.treatments.items()))
    return hashlib.sha256(text.encode()).hexdigest()
