"""Ways to break a bundle that every language's self-test has to notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.bundle.fake import manifest_of
from tests.integrate.tools import changed, golden_of, save, save_golden

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Fields that a self-test compares by the fingerprint, one of each kind.
FIELDS: list[tuple[str, Any]] = [
    ("preprocess.pad.value.1", 116.0),
    ("preprocess.image_size", 1008),
    ("prompts.labels.foreground", 9),
    ("prompts.coordinates.size", 512),
    ("masks.threshold", 0.5),
    ("components.1.inputs.1.name", "points"),
]


def change_field(bundle: Path, path: str, value: Any) -> None:  # noqa: ANN401
    """Another contract, with everything else as it was."""
    save(bundle, changed(manifest_of(bundle), path, value))


def _golden(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(bundle: Path) -> None:
        golden = golden_of(bundle)
        change(golden)
        save_golden(bundle, golden)

    return apply


def _wrong_mask(golden: dict[str, Any]) -> None:
    case = golden["cases"][0]
    masks = case["masks"]
    masks[case["answers"][0]] = masks[case["answers"][1]]


def _wrong_score(golden: dict[str, Any]) -> None:
    golden["cases"][1]["scores"][3] += 0.01


def _no_number(golden: dict[str, Any]) -> None:
    # Not the last: it must not be forgotten for what comes after it.
    golden["cases"][1]["scores"][1] = float("nan")


def _another_size(golden: dict[str, Any]) -> None:
    case = golden["cases"][0]
    case["masks"][case["answers"][0]] = {"size": [120, 80], "counts": [9600]}


def _wrong_choice(golden: dict[str, Any]) -> None:
    single, best = golden["cases"][0]["answers"]
    golden["cases"][0]["answers"] = [single, best % 3 + 1]


def _a_compared_mask(golden: dict[str, Any]) -> None:
    _wrong_mask(golden)
    case = golden["cases"][0]
    case.update(compared=case["answers"][:1], best_may_change=True)


def _a_choice_that_may_not_change(golden: dict[str, Any]) -> None:
    _wrong_choice(golden)
    golden["cases"][0].update(compared=[], best_may_change=False)


def _left_out(golden: dict[str, Any]) -> None:
    first, second, third = golden["cases"]
    _wrong_mask(golden)
    first["scores"][first["answers"][0]] += 0.5
    first.update(compared=first["answers"][1:], best_may_change=False)
    single, best = second["answers"]
    second["scores"][best] += 0.5
    second.update(answers=[single, best % 3 + 1], compared=[single], best_may_change=True)
    third["masks"] = third["masks"][::-1]
    third["scores"] = [score + 0.5 for score in third["scores"]]
    third.update(compared=[], best_may_change=True)


def _left_out_instance(golden: dict[str, Any]) -> None:
    first, second, *_ = golden["cases"]
    first.update(compared=[], best_may_change=True, masks=second["masks"])
    first["scores"][0] += 0.5


def _moved_point(golden: dict[str, Any]) -> None:
    golden["cases"][0]["points"][0][0] -= 40


def _no_cases(golden: dict[str, Any]) -> None:
    golden["cases"] = []


def _no_answers(golden: dict[str, Any]) -> None:
    golden["cases"][0]["answers"] = []


def _an_answer_too_many(golden: dict[str, Any]) -> None:
    golden["cases"][0]["answers"] = [0, 1, 7]


def _runs_too_short(golden: dict[str, Any]) -> None:
    golden["cases"][0]["masks"][0]["counts"].pop()


def _out_of_reach(golden: dict[str, Any]) -> None:
    golden["tolerances"]["mask_iou"] = 1.1


def _nothing_allowed(golden: dict[str, Any]) -> None:
    golden["tolerances"]["score_error"] = -1.0


def _off_the_image(golden: dict[str, Any]) -> None:
    golden["cases"][0]["points"][0][0] = 500


def _unlisted(bundle: Path) -> None:
    """Changed after the export: the manifest has another hash."""
    file = bundle / "golden" / "golden.json"
    file.write_text(file.read_text("utf-8") + " ", "utf-8")


def _another_photograph(bundle: Path) -> None:
    file = bundle / "golden" / "image.png"
    file.write_bytes(file.read_bytes() + b"\0")


def _another_graph(bundle: Path) -> None:
    file = bundle / manifest_of(bundle)["components"][-1]["files"][-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def _half_a_manifest(bundle: Path) -> None:
    file = bundle / "manifest.json"
    file.write_bytes(file.read_bytes()[:1000])


WAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    # The way, and a part of what is said.
    "a mask": (_golden(_wrong_mask), "mask IoU"),
    "a score": (_golden(_wrong_score), "score error"),
    "a score that is no number": (_golden(_no_number), "FAILED"),
    "the size of a mask": (_golden(_another_size), "FAILED"),
    "the choice": (_golden(_wrong_choice), "chosen"),
    "a compared mask": (_golden(_a_compared_mask), "mask IoU"),
    "a choice that may not change": (_golden(_a_choice_that_may_not_change), "chosen"),
    "a point": (_golden(_moved_point), "point: "),
    "a point off the image": (_golden(_off_the_image), "outside the image"),
    "no answers": (_golden(_no_answers), "FAILED"),
    "an answer that there is not": (_golden(_an_answer_too_many), "FAILED"),
    "no cases": (_golden(_no_cases), "FAILED"),
    "runs": (_golden(_runs_too_short), "golden mask"),
    "an IoU that nothing reaches": (_golden(_out_of_reach), "mask IoU"),
    "an error that nothing keeps": (_golden(_nothing_allowed), "score error"),
    "golden.json after the export": (_unlisted, "golden.json differs from the file"),
    "the photograph": (_another_photograph, "image.png differs from the file"),
    "a graph": (_another_graph, "differs from the file"),
    "no manifest": (_no_manifest, "manifest.json"),
    "half a manifest": (_half_a_manifest, "FAILED"),
}


leave_out = _golden(_left_out)
"""Break only masks, scores and a choice that a golden prompt does not compare: no failure."""
leave_out_instance = _golden(_left_out_instance)
"""The same for a bundle that finds instances."""


def check_left_out(said: str) -> None:
    """Check what a self-test prints after `leave_out`."""
    lines = said.splitlines()
    counts = [line.rpartition("; ")[2] for line in lines[:-1]]
    assert counts == [f"{n} of 2 masks not compared" for n in (1, 1, 2)], said
    assert lines[-1] == "PASSED", said


# ------------------------------------------------------------------ a bundle that finds instances

INSTANCE_FIELDS: list[tuple[str, Any]] = [
    ("preprocess.pad.value.1", 116.0),
    ("preprocess.image_size", 288),
    ("preprocess.resize.longest_side", 288),
    ("prompts.labels.foreground", 9),
    ("prompts.supports.box", False),
    ("prompts.host_rules.1", "box: the first one"),
    ("masks.threshold", 0.5),
    ("masks.score", "confidence"),
    ("masks.low_res_size", 32),
    ("masks.instances.confidence", 0.5),
    ("masks.instances.nms_iou", 0.7),
    ("masks.instances.max_instances", 100),
    ("masks.instances.border", 10),
    ("masks.instances.whole_iou", 0.8),
    ("masks.instances.stride", 16),
    ("masks.instances.rules.0", "round() gives the greater one"),
    ("components.0.inputs.0.name", "picture"),
    ("components.0.outputs.1.name", "confidence"),
    ("components.0.outputs.3.shape.2", 32),
    ("components.0.files.0", "other.onnx"),
    ("target.options.provider", "CUDAExecutionProvider"),
]


def _another_instance(golden: dict[str, Any]) -> None:
    golden["cases"][0]["masks"] = golden["cases"][1]["masks"]


def _score_of_an_instance(golden: dict[str, Any]) -> None:
    golden["cases"][1]["scores"][0] += 0.01


def _no_score(golden: dict[str, Any]) -> None:
    golden["cases"][1]["scores"][0] = float("nan")


def _a_mask_too_many(golden: dict[str, Any]) -> None:
    golden["cases"][0]["masks"] *= 2


def _a_mask_as_prompt(golden: dict[str, Any]) -> None:
    golden["cases"][0]["mask_input"] = "point.mask_input.npy"


def _point_with_a_box(golden: dict[str, Any]) -> None:
    golden["cases"][0]["box"] = [10, 10, 90, 60]


INSTANCE_WAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a mask": (_golden(_another_instance), "mask IoU"),
    "a score": (_golden(_score_of_an_instance), "score error"),
    "a score that is no number": (_golden(_no_score), "FAILED"),
    "two masks": (_golden(_a_mask_too_many), "one mask and one score"),
    "another answer": (_golden(_an_answer_too_many), "one mask and one score"),
    "a mask as prompt": (_golden(_a_mask_as_prompt), "has a mask"),
    "a point with a box": (_golden(_point_with_a_box), "points or a box"),
    **{
        way: WAYS[way]
        for way in (
            "the size of a mask",
            "a point",
            "a point off the image",
            "no answers",
            "no cases",
            "runs",
            "an IoU that nothing reaches",
            "an error that nothing keeps",
            "golden.json after the export",
            "the photograph",
            "a graph",
            "no manifest",
            "half a manifest",
        )
    },
}
