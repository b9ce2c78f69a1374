"""What the manifest of a bundle that finds instances becomes, and everything that is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import integrate, models
from effsam_export.errors import UsageError
from effsam_export.imaging import instances, letterbox
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.integrate.instances import instance_contract_of
from effsam_export.integrate.write import writer
from tests.integrate import broken
from tests.integrate.tools import changed, manifest_for

if TYPE_CHECKING:
    from collections.abc import Mapping

FAST_SAM = models.get("fast-sam-s")


def refused(manifest: Mapping[str, Any]) -> str:
    with pytest.raises(UsageError) as error:
        instance_contract_of(manifest)
    assert error.value.hint
    return error.value.message


@pytest.mark.parametrize("name", [n for n in models.names() if models.get(n).finds_instances])
def test_the_contract_of_every_model_is_implemented(name: str) -> None:
    """The rules there are copies: a sentence that changes has to be taken over by hand."""
    found = instance_contract_of(manifest_for(models.get(name)))
    assert (found.image_size, found.pad_value) == (1024, (114.0, 114.0, 114.0))
    assert (found.confidence, found.nms_iou) == (instances.CONFIDENCE, instances.NMS_IOU)
    assert (found.border, found.whole_iou) == (instances.BORDER_PX, instances.WHOLE_IOU)
    assert (found.max_instances, found.stride) == (instances.MAX_INSTANCES, letterbox.STRIDE)
    assert (found.score, found.threshold, found.max_points) == ("scores", 0.0, None)
    assert (found.foreground, found.background) == (1, 0)
    assert (found.takes_box, found.takes_points_with_box) == (True, False)
    assert found.segmenter.file == "segmenter.onnx"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("preprocess.family", "squash"),
        ("preprocess.orientation", "leave it"),
        ("preprocess.range", [0, 1]),
        ("preprocess.normalisation.inside_graph", False),
        ("preprocess.resize.rounding", "floor"),
        ("preprocess.resize.filter", "nearest"),
        ("preprocess.resize.longest_side", 512),
        ("preprocess.image_size", 640),
        ("preprocess.pad", None),
        ("preprocess.pad.sides", ["bottom", "right"]),
        ("preprocess.pad.value", [114.0, float("nan"), 114.0]),
        ("prompts.coordinates.order", "yx"),
        ("prompts.coordinates.frame", "letterbox"),
        ("prompts.host_rules", []),
        ("prompts.mask_input", "logits"),
        ("prompts.padding", {"when": "always", "coordinates": [0, 0], "label": -1}),
        ("prompts.supports.mask", True),
        ("prompts.supports.slots", 8),
        ("prompts.supports.points_with_box", True),
        ("prompts.supports.negative_points", False),
        ("prompts.labels.foreground", 2),
        ("prompts.labels.background", 3),
        ("masks.select", "the first"),
        ("masks.rule", "greater or equal"),
        ("masks.single", [0]),
        ("masks.multimask", [1]),
        ("masks.resize", ["nearest"]),
        ("masks.score", "confidence"),
        ("masks.threshold", float("inf")),
        ("masks.low_res_size", 128),
        ("masks.instances.rules", []),
        ("masks.instances.border", float("nan")),
        ("masks.instances.stride", 0),
        # Numbers that the sentences beside them do not have.
        ("masks.instances.confidence", 0.5),
        ("masks.instances.nms_iou", 0.7),
        ("masks.instances.max_instances", 100),
        ("masks.instances.border", 10),
        ("masks.instances.whole_iou", 0.8),
        ("masks.instances.whole_iou", float("nan")),
        ("components.0.inputs.0.name", "picture"),
        ("components.0.inputs.0.dtype", "uint8"),
        ("components.0.inputs.0.shape", [1, 1024, 1024, 3]),
        ("components.0.outputs.0.name", "box"),
        ("components.0.outputs.0.shape", [1, "boxes", 4]),
        ("components.0.outputs.2.shape", [1, 21504, 16]),
        ("components.0.outputs.3.shape", [1, 32, 160, 160]),
        ("components.0.files", ['segmenter.onnx"; import os']),
        ("target.options.provider", 'CPU"); evil("'),
    ],
)
def test_a_rule_that_is_not_implemented(path: str, value: Any) -> None:  # noqa: ANN401
    message = refused(changed(manifest_for(FAST_SAM), path, value))
    assert message.startswith("this contract is not supported: ")


def test_an_older_bundle() -> None:
    """Its manifest is valid, and has not all that the code needs."""
    manifest = manifest_for(FAST_SAM)
    del manifest["masks"]["instances"]
    assert "no `masks.instances`" in refused(manifest)


@pytest.mark.parametrize(("path", "value"), broken.INSTANCE_FIELDS)
def test_each_field_of_the_contract_is_in_the_fingerprint(path: str, value: Any) -> None:  # noqa: ANN401
    manifest = manifest_for(FAST_SAM)
    manifest["target"]["options"] = {"provider": "CPUExecutionProvider"}
    assert fingerprint(changed(manifest, path, value)) != fingerprint(manifest)


@pytest.mark.parametrize(
    "options", [{"delegate": "gpu"}, {"num_threads": "many"}, {"num_threads": True}], ids=str
)
def test_options_that_python_has_not(options: dict[str, Any]) -> None:
    manifest = manifest_for(FAST_SAM, "tflite")
    manifest["target"]["options"] = options
    with pytest.raises(UsageError, match=r"GPU delegate|num_threads is"):
        writer("python", manifest)()


@pytest.mark.parametrize("language", integrate.INSTANCES)
def test_a_title_cannot_leave_its_comment(language: str) -> None:
    manifest = changed(manifest_for(FAST_SAM), "model.title", 'x"""\nevil() \\')
    for text in writer(language, manifest)().values():
        assert 'x"""' not in text
        assert "evil() \\" not in text
