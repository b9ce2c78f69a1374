"""One field of a manifest that changes: the Swift says so in its place, or is not written."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.errors import UsageError
from effsam_export.integrate import fingerprint, rules, swift
from tests.integrate.swift_code import files_for, manifest_of_kind, values
from tests.integrate.tools import changed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.compiler


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every value in a manifest's part by its dotted path; an empty list is a value too."""
    if isinstance(value, (dict, list)) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def other(value: Any) -> Any:  # noqa: ANN401
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x" if isinstance(value, str) else 1 if value is None else ["x"]


LEAVES = dict(leaves(fingerprint.parts(manifest_of_kind())))
# Path -> another value, and the constants that state it, by file.
STATED: dict[str, tuple[Any, dict[str, Any]]] = {
    "preprocess.pad.value.0": (0.5, {"Segmenter.swift: padValue": [0.5, 116.28, 103.53]}),
    "preprocess.pad.value.1": (116.0, {"Segmenter.swift: padValue": [123.675, 116.0, 103.53]}),
    "preprocess.pad.value.2": (-1.0, {"Segmenter.swift: padValue": [123.675, 116.28, -1.0]}),
    "prompts.labels.foreground": (9, {"Segmenter.swift: foreground": 9}),
    "prompts.labels.background": (7, {"Segmenter.swift: background": 7}),
    "prompts.labels.box_top_left": (8, {"Segmenter.swift: boxTopLeft": 8}),
    "prompts.labels.box_bottom_right": (6, {"Segmenter.swift: boxBottomRight": 6}),
    "prompts.padding.coordinates.0": (-1, {"Segmenter.swift: paddingPoint": (-1.0, 0.0)}),
    "prompts.padding.coordinates.1": (2.5, {"Segmenter.swift: paddingPoint": (0.0, 2.5)}),
    "prompts.supports.box": (False, {"Segmenter.swift: takesBox": False}),
    "prompts.supports.points_with_box": (
        False,
        {"Segmenter.swift: takesPointsWithBox": False},
    ),
    "masks.threshold": (1e-05, {"Segmenter.swift: threshold": 1e-05}),
    "masks.single.0": (2, {"Segmenter.swift: single": [2]}),
    "masks.multimask.0": (3, {"Segmenter.swift: multimask": [3, 2, 3]}),
    "masks.multimask.1": (3, {"Segmenter.swift: multimask": [1, 3, 3]}),
    "masks.multimask.2": (2, {"Segmenter.swift: multimask": [1, 2, 2]}),
    "target.options.compute_units": (
        "CPU_AND_NE",
        {
            "Segmenter.swift: computeUnits": "CPU_AND_NE",
            "CoreMLGraph.swift: computeUnits": ".cpuAndNeuralEngine",
        },
    ),
}
# Nobody who calls the graphs does anything else for these.
SILENT = (
    "contract_version",
    "preprocess.normalisation.mean.",
    "preprocess.normalisation.std.",
    "target.options.slots",
)


def is_silent(path: str) -> bool:
    # Of a package's files, the first says where it is.
    return path.startswith(SILENT) or path.endswith((".description", ".files.1"))


def changed_lines(before: dict[str, str], after: dict[str, str]) -> int:
    """How many lines of the code are others; none may be added or missing."""
    return sum(
        a != b
        for name, text in before.items()
        for a, b in zip(text.splitlines(), after[name].splitlines(), strict=True)
    )


@cache
def unchanged() -> tuple[dict[str, str], dict[str, Any]]:
    before = files_for(manifest_of_kind())
    return before, values(before)


def expect(after: dict[str, str], wanted: dict[str, Any]) -> None:
    """Expect these constants to be others, and the fingerprint, and no further line."""
    before, old = unchanged()
    new = values(after)
    assert old.keys() == new.keys()
    differing = {name: new[name] for name in new if new[name] != old[name]}
    assert differing.pop("Segmenter.swift: fingerprint")
    assert differing == wanted
    assert changed_lines(before, after) == 1 + len(wanted)


def test_every_listed_field_is_one() -> None:
    assert set(STATED) <= set(LEAVES)
    assert all(any(p.startswith(s) for p in LEAVES) for s in SILENT)


@pytest.mark.parametrize("path", LEAVES)
def test_a_field_that_changes(path: str) -> None:
    """It is stated in its place, it is nobody's business, or it is refused."""
    value, wanted = STATED.get(path, (other(LEAVES[path]), {}))
    manifest = changed(manifest_of_kind(), path, value)
    if path in STATED or is_silent(path):
        expect(files_for(manifest), wanted)
    elif path == "target.backend":
        assert value not in swift.BACKENDS  # test_write.py has what `effsam code` says then
    else:
        with pytest.raises(UsageError):
            files_for(manifest)


LOW = [1, 4, 128, 128]
TOGETHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "score": (
        {
            "masks.score": "quality",
            "masks.select": rules.selection("quality"),
            "components.1.outputs.1.name": "quality",
        },
        {"scores": "quality"},
    ),
    "embeddings": (
        {
            "components.0.outputs.0.shape": [1, 128, 32, 32],
            "components.1.inputs.0.shape": [1, 128, 32, 32],
        },
        {"embeddingsShape": [1, 128, 32, 32]},
    ),
    "packages": (
        {
            "components.0.files": ["a.mlpackage/Manifest.json", "a.mlpackage/Data/x"],
            "components.1.files": ["in/b.mlpackage/Manifest.json"],
        },
        {"encoderPackage": "a.mlpackage", "decoderPackage": "in/b.mlpackage"},
    ),
    "image": (
        {
            "preprocess.image_size": 512,
            "preprocess.resize.longest_side": 512,
            "prompts.coordinates.frame": rules.frame(rules.LONGEST_SIDE, 512, 1024),
            "components.0.inputs.0.shape": [1, 3, 512, 512],
        },
        {"imageHeight": 512, "imageWidth": 512},
    ),
    "frame": (
        {
            "prompts.coordinates.size": 512,
            "prompts.coordinates.frame": rules.frame(rules.LONGEST_SIDE, 1024, 512),
            "masks.resize": rules.through_frame(512),
        },
        {"promptHeight": 512, "promptWidth": 512},
    ),
    "slots": (
        {
            "prompts.supports.slots": 4,
            "prompts.supports.max_points": 3,
            "prompts.padding.when": rules.closing(4, -2),
            "components.1.inputs.1.shape": [1, 4, 2],
            "components.1.inputs.2.shape": [1, 4],
        },
        {"room": 4, "maxPoints": 3},
    ),
    "empty": (
        {"prompts.labels.empty": -3, "prompts.padding.when": rules.closing(6, -3)},
        {"emptyLabel": -3},
    ),
    "padding": (
        {"prompts.labels.padding": -4, "prompts.padding.label": -4},
        {"paddingLabel": -4},
    ),
    "low": (
        {
            "masks.low_res_size": 128,
            "components.1.inputs.3.shape": [1, 1, 128, 128],
            "components.1.outputs.0.shape": LOW,
        },
        {"lowResHeight": 128, "lowResWidth": 128},
    ),
    "background": (
        {"prompts.labels.background": None, "prompts.supports.negative_points": False},
        {"background": None},
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_fields_that_change_together(name: str) -> None:
    changes, wanted = TOGETHER[name]
    manifest = manifest_of_kind()
    for path, value in changes.items():
        manifest = changed(manifest, path, value)
    expect(files_for(manifest), {f"Segmenter.swift: {k}": v for k, v in wanted.items()})


def test_a_package_of_several_functions_is_called_by_its_first() -> None:
    manifest = changed(manifest_of_kind(), "target.options.functions", "2 4")
    expect(files_for(manifest), {})
