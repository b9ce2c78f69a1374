"""The self-test of generated JavaScript for bundles that find instances: it passes, and it fails.

A process needs more than a second for the runtime alone, so that all bundles but a few share one.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import attest
from effsam_export.integrate.fingerprint import fingerprint
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.node import Answer, selftests
from tests.integrate.test_instances_selftest import NOTICED
from tests.integrate.test_javascript import selftest
from tests.integrate.tools import (
    changed,
    generate,
    golden_of,
    lines_of,
    save_golden,
    spoil,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.backend

OUTPUTS = ("boxes", "scores", "mask_coefficients", "prototypes")


@pytest.fixture(scope="module")
def code(
    exported_instances: Path, node_modules: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = generate(manifest_of(exported_instances), "js", tmp_path_factory.mktemp("tiny"))
    (folder / "node_modules").symlink_to(node_modules)
    return folder


# ------------------------------------------------------------------ processes of their own


def test_golden_vectors(node: str, code: Path, instance_bundle: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    done = selftest(node, code, instance_bundle, "--json", str(report_file))
    lines = lines_of(done)
    assert done.returncode == 0, done.stdout
    names = [c["name"] for c in golden_of(instance_bundle)["cases"]]
    assert [line.split(":")[0] for line in lines] == [*names, "PASSED"]
    report = json.loads(report_file.read_text())
    assert report["contract"] == fingerprint(manifest_of(instance_bundle))
    assert [c["name"] for c in report["cases"]] == names
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    assert max(c["score_error"] for c in report["cases"]) <= 0.001
    assert report["passed"] is True
    # `attest` compares the masks in the report again.
    found = attest.attest(instance_bundle, report_file)
    assert found.min_iou == min(c["mask_iou"] for c in report["cases"])
    assert (found.language, found.runtime) == ("js", "onnxruntime-web")


def test_a_process_that_fails(node: str, code: Path, instance_bundle: Path, tmp_path: Path) -> None:
    """Not a number, which a report has no word for."""
    expect_nothing(instance_bundle, "scores")
    done = selftest(node, code, instance_bundle, "--json", str(tmp_path / "report.json"))
    assert done.returncode == 1
    assert done.stdout.endswith("FAILED\n")
    report = json.loads((tmp_path / "report.json").read_text())
    first = report["cases"][0]
    assert (first["name"], first["mask_iou"], first["score_error"]) == ("point", None, None)
    assert report["passed"] is False


# ------------------------------------------------------------------ all others


def expect_nothing(bundle: Path, output: str) -> None:
    """An output that is no number gives no mask, and no masks are expected."""
    spoil(bundle / "segmenter.onnx", output)
    golden = golden_of(bundle)
    for case in golden["cases"]:
        case["masks"] = [{"size": [80, 120], "counts": [9600]}]
        case["scores"] = [0.0]
    save_golden(bundle, golden)


def code_for_another_contract(bundle: Path, change: str, folder: Path) -> Path:
    """The fingerprint is made to agree: what has to fail are the golden vectors alone."""
    manifest = manifest_of(bundle)
    other = manifest
    for path, value in NOTICED[change].items():
        other = changed(other, path, value)
    generate(other, "js", folder)
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(fingerprint(other), fingerprint(manifest)))
    return folder


@pytest.fixture(scope="module")
def answers(
    node: str,
    code: Path,
    exported_instances: Path,
    node_modules: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Answer]:
    """What the self-test says about each bundle, by the name of what is wrong with it."""
    work = tmp_path_factory.mktemp("many")
    questions: dict[str, tuple[Path, Path]] = {}

    def ask(name: str, apply: Callable[[Path], object], folder: Path = code) -> None:
        bundle = work / f"bundle{len(questions)}"
        shutil.copytree(exported_instances, bundle)
        apply(bundle)
        questions[name] = (folder, bundle)

    ask("nothing", lambda _: None)
    for path, value in broken.INSTANCE_FIELDS:
        ask(path, partial(broken.change_field, path=path, value=value))
    for way, (apply, _) in broken.INSTANCE_WAYS.items():
        ask(way, apply)
    for output in OUTPUTS:
        ask(output, partial(expect_nothing, output=output))
    for number, change in enumerate(NOTICED):
        folder = code_for_another_contract(exported_instances, change, work / f"code{number}")
        (folder / "node_modules").symlink_to(node_modules)
        ask(f"for {change}", lambda _: None, folder)
    ask("left out", broken.leave_out_instance)
    ask("nothing again", lambda _: None)
    return selftests(node, questions, work)


@pytest.mark.parametrize("name", ["nothing", "nothing again"])
def test_the_bundle_as_it_is(answers: dict[str, Answer], name: str) -> None:
    """One that failed before it leaves nothing behind."""
    assert answers[name].status == 0, answers[name].said
    assert answers[name].said.endswith("\nPASSED")


def test_an_instance_that_is_not_compared(answers: dict[str, Answer]) -> None:
    status, said = answers["left out"]
    assert status == 0, said
    assert "; 1 of 1 masks not compared" in said.splitlines()[0]


@pytest.mark.parametrize("path", [path for path, _ in broken.INSTANCE_FIELDS])
def test_a_manifest_of_another_contract(answers: dict[str, Answer], path: str) -> None:
    status, said = answers[path]
    assert status == 1
    assert "the manifest's contract differs" in said
    assert said.endswith("\nFAILED")


@pytest.mark.parametrize("way", broken.INSTANCE_WAYS)
def test_a_broken_bundle(answers: dict[str, Answer], way: str) -> None:
    status, said = answers[way]
    assert status == 1, said
    assert broken.INSTANCE_WAYS[way][1] in said
    assert said.endswith("FAILED")


@pytest.mark.parametrize("output", OUTPUTS)
def test_not_a_number(answers: dict[str, Answer], output: str) -> None:
    status, said = answers[output]
    assert status == 1
    assert "point: mask IoU NaN, score error NaN, NaN or infinity" in said


@pytest.mark.parametrize("change", NOTICED)
def test_vectors_notice_code_for_another_contract(answers: dict[str, Answer], change: str) -> None:
    status, said = answers[f"for {change}"]
    assert status == 1, said
    assert "contract" not in said
    assert said.endswith("FAILED")
