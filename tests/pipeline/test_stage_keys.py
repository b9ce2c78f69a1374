"""The inputs of shared stages: each one changes the key, and two forms never share a name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from effsam_export import layouts, models
from effsam_export.config import targets as profiles
from effsam_export.layouts import LAYOUTS
from effsam_export.models import batching, image_sizes
from effsam_export.pipeline import component, stage_keys
from effsam_export.pipeline.request import ExportRequest
from effsam_export.pipeline.stage_keys import form_of, stage_parts
from effsam_export.spec.prompts import Point
from effsam_export.spec.stages import Checkpoint, LoraFile
from effsam_export.util import installed

if TYPE_CHECKING:
    from collections.abc import Callable

SAM_LAYOUTS = ("anylabeling", "transformers-js")
FILE = Checkpoint(path=Path("x.pt"), sha256="1" * 64, official=True)
LORA = LoraFile(path=Path("a.bin"), sha256="4" * 64)
MODEL = models.get("expedit-sam-vit-b")


def request() -> ExportRequest:
    return ExportRequest(
        model=MODEL,
        target=profiles.load_target("onnx", "fp32"),
        checkpoint=FILE,
        output=Path("unused"),
    )


OTHER_REQUESTS = {
    "model": replace(request(), model=replace(MODEL, name="other")),
    "model.options": replace(
        request(), model=models.configured(MODEL, {**MODEL.options, "location": 8.0})
    ),
    "model.batch": replace(request(), model=batching.with_batch(models.get("mobile-sam"), 4)),
    "model.image_size": replace(
        request(), model=image_sizes.resized(models.get("mobile-sam"), 512)
    ),
    "weights": replace(request(), checkpoint=replace(FILE, sha256="2" * 64)),
    "weights.key": replace(request(), checkpoint=replace(FILE, key="student")),
    "weights.base": replace(request(), checkpoint=replace(FILE, base=FILE)),
    "weights.lora": replace(request(), checkpoint=replace(FILE, lora=LORA)),
}


@pytest.mark.parametrize("name", OTHER_REQUESTS)
def test_each_part_of_a_request_is_in_the_key(name: str) -> None:
    before, after = (stage_parts(r, 2) for r in (request(), OTHER_REQUESTS[name]))
    assert before[name] != after[name]
    lora = OTHER_REQUESTS["weights.lora"]
    scaled = replace(lora, checkpoint=replace(lora.weights, lora=replace(LORA, alpha=2.0)))
    assert stage_parts(lora, 2) != stage_parts(scaled, 2)


def test_each_part_of_the_machine_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_parts(request(), 2)
    assert stage_parts(request(), 2) == before
    assert stage_parts(request(), 1) != before
    for name, value in (
        ("code_hash", lambda: "other"),
        ("cpu_name", lambda: "other"),
        ("__version__", "9.9"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(stage_keys, name, value)
            assert stage_parts(request(), 2) != before, name
    versions = {t: installed.version_of(t) for t in stage_keys.TRACING}
    for tool in versions:
        newer = {**versions, tool: "9.9"}
        monkeypatch.setattr(installed, "version_of", newer.__getitem__)
        assert stage_parts(request(), 2) != before, tool


def test_settings_of_torch_are_in_the_key() -> None:
    before = stage_parts(request(), 2)
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert stage_parts(request(), 2) != before
    finally:
        torch.set_float32_matmul_precision(usual)


def scaled(factor: Any, value: float = 1.0) -> object:  # noqa: ANN401 - for `FORMS`
    return factor * value


def added(factor: float, value: float) -> float:
    return factor + value


def closed(factor: float) -> Callable[[float], float]:
    return lambda value: factor * value


FORMS = (
    scaled,
    added,
    partial(scaled, 1.0),
    partial(scaled, 2.0),
    partial(added, 1.0),
    partial(scaled, factor=1.0),
    partial(scaled, Point(x=1, y=2)),
    partial(scaled, Point(x=1, y=3)),
    partial(scaled, [partial(added, 1.0)]),
    partial(scaled, [partial(added, 2.0)]),
    partial(scaled, {"a": 1}),
    partial(scaled, {"a": 2}),
    partial(scaled, {1, 2}),
    partial(scaled, "1.0"),
    partial(scaled, Point),
    partial(scaled, torch.zeros(1)),
    partial(scaled, torch.zeros(1)),
    closed(1.0),
    closed(2.0),
)


def test_two_forms_have_two_names() -> None:
    names = [form_of(f) for f in FORMS]
    assert len(set(names)) == len(FORMS)
    # What cannot be described is not shared, not even with itself.
    assert form_of(FORMS[15]) != form_of(FORMS[15])
    others = [form_of(f) for f in (*FORMS[:15], *FORMS[17:])]
    assert others == names[:15] + names[17:]
    assert form_of(closed(1.0)) == names[17]


def test_every_model_and_layout_has_a_name_for_its_forms() -> None:
    for name in models.names():
        model = models.get(name)
        usable = [n for n in LAYOUTS if layouts.load(n).fault(model) is None]
        for spec in (model, *(layouts.in_layout(model, n) for n in usable)):
            for part in spec.components:
                for function in (part.wrap, part.reference):
                    assert form_of(function) == form_of(function), (name, part.name)


def test_layouts_with_equal_tensors_have_traces_of_their_own() -> None:
    model = models.get("mobile-sam")
    target = profiles.load_target("onnx", "fp32")
    traces = [
        component.trace_parts(spec.component("decoder"), target, {})
        for spec in (model, *(layouts.in_layout(model, name) for name in SAM_LAYOUTS))
    ]
    assert len({str(sorted(t.items())) for t in traces}) == len(traces)
