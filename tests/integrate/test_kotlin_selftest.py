"""The generated Kotlin self-test on real bundles, before LiteRT's own interpreter in Python."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import models
from effsam_export.bundle import attest
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.models import fixed
from tests.bundle.fake import manifest_of
from tests.integrate import broken
from tests.integrate.jvm import STUBS, package_of, packaged
from tests.integrate.tools import (
    SMALL_OWN_FRAME,
    SMALL_SQUASHED,
    become,
    expect_nothing,
    lines_of,
    run,
)
from tests.small import SMALL_SAM

if TYPE_CHECKING:
    import subprocess

    from tests.integrate.jvm import Kotlin

pytest.importorskip("ai_edge_litert")

pytestmark = pytest.mark.backend

CHILD = [sys.executable, str(Path(__file__).with_name("litert_child.py"))]
OTHERS = {
    "squash": fixed.with_slots(SMALL_SQUASHED, 8),
    "own-frame": fixed.with_slots(SMALL_OWN_FRAME, 8),
}


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """A compiled self-test; a bundle that is changed afterwards is what it has to notice."""

    command: list[str]

    def __call__(
        self, bundle: Path, *, backend: str = "python", child: list[str] = CHILD
    ) -> subprocess.CompletedProcess[str]:
        report = str(bundle.parent / "report.json")
        return run([*self.command, backend, str(bundle), report, *child], bundle.parent)


def report_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle.parent / "report.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def bundles(exported_tflite: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported one, and the same graphs under other contracts."""
    found = {"small": exported_tflite}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, SMALL_SAM.name, ("tests.small", "SMALL_SAM"))
        for kind, model in OTHERS.items():
            copy = tmp_path_factory.mktemp(kind) / "bundle"
            found[kind] = Path(shutil.copytree(exported_tflite, copy))
            become(copy, model)
    return found


@pytest.fixture(scope="module")
def classes(
    kotlin: Kotlin, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All generated files, the binding to LiteRT among them, against the stubs of its classes."""
    folder = tmp_path_factory.mktemp("selftest")
    sources = []
    for kind, bundle in bundles.items():
        files = packaged(manifest_of(bundle), folder / kind, package_of(kind))
        sources += [f for f in files if f.name != "Driver.kt"]
    return kotlin.compile([*sources, *STUBS], folder / "classes")


@pytest.fixture(scope="module")
def run_classes(kotlin: Kotlin, classes: Path) -> Path:
    return kotlin.compile_stubs(classes)


@pytest.fixture(scope="module")
def selftest(kotlin: Kotlin, run_classes: Path) -> SelfTest:
    return SelfTest(command=kotlin.command(f"{package_of('small')}.RunKt", run_classes))


def test_the_binding_compiles(classes: Path) -> None:
    """Against the signatures of LiteRT's Java classes, whether or not anything runs here."""
    package = classes / package_of("small").replace(".", "/")
    assert (package / "LiteRtGraph.class").is_file()
    assert (package / "LiteRt.class").is_file()


# ------------------------------------------------------------------ it passes


def test_golden_vectors(selftest: SelfTest, tflite_bundle: Path) -> None:
    done = selftest(tflite_bundle)
    lines = lines_of(done)
    assert done.returncode == 0, done.stdout
    assert [line.split(":")[0] for line in lines[:-1]] == ["point", "both", "again"]
    assert all(line.endswith(", ok") for line in lines[:-1])
    assert lines[-1] == "PASSED"
    report = report_of(tflite_bundle)
    content = (tflite_bundle / "manifest.json").read_bytes()
    assert report["manifest_sha256"] == hashlib.sha256(content).hexdigest()
    assert report["contract"] == fingerprint(manifest_of(tflite_bundle))
    assert (report["language"], report["runtime"]) == ("kotlin", "ai-edge-litert")
    assert report["version"]
    assert report["device"]
    assert min(c["mask_iou"] for c in report["cases"]) >= 0.999
    assert max(c["score_error"] for c in report["cases"]) <= 0.001
    assert report["passed"] is True
    # `attest` compares the masks in the report again.
    found = attest.attest(tflite_bundle, tflite_bundle.parent / "report.json")
    assert found.min_iou == min(c["mask_iou"] for c in report["cases"])
    assert found.device == report["device"]


def test_golden_vectors_through_the_binding(selftest: SelfTest, tflite_bundle: Path) -> None:
    """`LiteRtGraph.kt` before a fake with the signatures of LiteRT's Java classes."""
    done = selftest(tflite_bundle, backend="litert")
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr
    report = report_of(tflite_bundle)
    assert report["device"] == "Some Phone, Android 16, CPU"
    # Its name for the runtime is one that the bundle's manifest agrees to.
    assert attest.attest(tflite_bundle, tflite_bundle.parent / "report.json").version == "stub"


@pytest.mark.parametrize("kind", OTHERS)
def test_golden_vectors_of_other_contracts(
    kotlin: Kotlin, run_classes: Path, bundles: dict[str, Path], kind: str
) -> None:
    other = SelfTest(command=kotlin.command(f"{package_of(kind)}.RunKt", run_classes))
    done = other(bundles[kind])
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr


def test_a_manifest_written_in_another_way(selftest: SelfTest, tflite_bundle: Path) -> None:
    """The same values with escapes, exponents and no white space: the same contract."""
    manifest = manifest_of(tflite_bundle)
    text = json.dumps(manifest, separators=(",", ":")).replace('"threshold":0.0', '"threshold":0e5')
    text = text.replace("Pillow's", "\\u0050illow\\u0027s")
    (tflite_bundle / "manifest.json").write_text(text)
    assert selftest(tflite_bundle).stdout.endswith("PASSED\n")


# ------------------------------------------------------------------ it fails


@pytest.mark.parametrize(("path", "value"), broken.FIELDS)
def test_a_manifest_of_another_contract(
    selftest: SelfTest,
    tflite_bundle: Path,
    path: str,
    value: Any,  # noqa: ANN401
) -> None:
    broken.change_field(tflite_bundle, path, value)
    done = selftest(tflite_bundle)
    assert done.returncode == 1
    assert "the manifest's contract differs" in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_masks_that_are_not_compared(selftest: SelfTest, tflite_bundle: Path) -> None:
    broken.leave_out(tflite_bundle)
    broken.check_left_out(selftest(tflite_bundle).stdout)


@pytest.mark.parametrize("way", broken.WAYS)
def test_a_broken_bundle(selftest: SelfTest, tflite_bundle: Path, way: str) -> None:
    apply, said = broken.WAYS[way]
    apply(tflite_bundle)
    done = selftest(tflite_bundle)
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
    assert done.stdout.endswith("FAILED\n")
    assert report_of(tflite_bundle)["passed"] is False


def test_not_a_number(selftest: SelfTest, tflite_bundle: Path) -> None:
    """NaN is greater than no threshold: its masks are empty, and so are the expected ones here."""
    expect_nothing(tflite_bundle)
    done = selftest(tflite_bundle, child=[*CHILD, "--spoil"])
    assert done.returncode == 1
    assert "point: mask IoU NaN, score error NaN, NaN or infinity" in done.stdout
    first = report_of(tflite_bundle)["cases"][0]
    assert (first["name"], first["mask_iou"], first["score_error"]) == ("point", None, None)


def test_without_the_runtime(selftest: SelfTest, tflite_bundle: Path) -> None:
    done = selftest(tflite_bundle, child=[str(tflite_bundle.parent / "absent")])
    assert done.returncode == 1
    assert "absent" in done.stdout
    assert done.stdout.endswith("FAILED\n")
