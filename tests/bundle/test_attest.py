"""Attestations: results of a device are compared by their masks, and invalid ones refused."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from effsam_export import cli
from effsam_export.bundle import attest as library
from effsam_export.bundle import read
from effsam_export.errors import BundleError, CheckFailed, UsageError
from effsam_export.imaging import rle
from effsam_export.util.files import sha256_of
from tests.bundle import fake

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[dict[str, Any]], object]

SIZE = (6, 8)
SCORES = [0.5, 0.9, 0.7, 0.6]


def masks(case: int) -> list[dict[str, list[int]]]:
    """Four masks of some rows each."""
    found = []
    for i in range(4):
        mask = np.zeros(SIZE, bool)
        mask[: 2 + (i + case) % 4] = True
        found.append(rle.encode(mask))
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Simulated, with golden vectors of three prompts."""
    path = fake.write(tmp_path / "tiny")
    manifest = fake.manifest_of(path)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path / "golden" / "image.png")
    cases = [
        {
            "name": name,
            "points": [[1, 1, 1]],
            "box": None,
            "mask_input": None,
            "answers": [0, 1],
            "masks": masks(i),
            "scores": SCORES,
        }
        for i, name in enumerate(("point", "both", "again"))
    ]
    golden = {
        "image": "image.png",
        "tolerances": {"mask_iou": 0.95, "score_error": 0.02},
        "cases": cases,
    }
    (path / "golden" / "golden.json").write_text(json.dumps(golden), "utf-8")
    manifest["state"], manifest["simulator"] = "simulated", "an evaluator"
    fake.save(path, manifest)
    return path


@pytest.fixture
def result(bundle: Path) -> dict[str, Any]:
    """What a device that does everything right sends."""
    return {
        "manifest_sha256": sha256_of(bundle / "manifest.json"),
        "language": "kotlin",
        "runtime": "onnxruntime",
        "version": "1.23",
        "device": "Some Phone 9",
        "passed": True,
        "cases": [
            {"name": n, "masks": masks(i), "scores": SCORES}
            for i, n in enumerate(("point", "both", "again"))
        ],
    }


def sent(bundle: Path, document: Any) -> Path:  # noqa: ANN401 - any JSON
    path = bundle.parent / "selftest.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_a_device_that_does_it_right_raises_the_state(bundle: Path, result: dict[str, Any]) -> None:
    found = library.attest(bundle, sent(bundle, result))
    assert (found.min_iou, found.score_error < 1e-6, found.signed) == (1.0, True, False)
    after = read.read(bundle)
    assert read.integrity(after) == ()
    assert after.manifest["state"] == "verified on device"
    # The simulator of the export stays.
    assert after.manifest["simulator"] == "an evaluator"
    (entry,) = after.manifest["attestations"]
    assert entry["device"] == "Some Phone 9"
    assert json.loads((bundle / entry["file"]).read_text("utf-8")) == result


def test_a_second_device_may_have_the_bundle_as_it_was(
    bundle: Path, result: dict[str, Any]
) -> None:
    library.attest(bundle, sent(bundle, result))
    library.attest(bundle, sent(bundle, {**result, "device": "Other Phone"}))
    # The same one again is no third.
    again = {**result, "manifest_sha256": sha256_of(bundle / "manifest.json")}
    library.attest(bundle, sent(bundle, again))
    manifest = read.read(bundle).manifest
    assert [a["device"] for a in manifest["attestations"]] == ["Other Phone", "Some Phone 9"]
    assert read.integrity(read.read(bundle)) == ()


def test_devices_without_an_ascii_name_have_files_of_their_own(
    bundle: Path, result: dict[str, Any]
) -> None:
    for device in ("手机", "電話"):
        library.attest(bundle, sent(bundle, {**result, "device": device}))
    entries = read.read(bundle).manifest["attestations"]
    assert sorted(a["device"] for a in entries) == ["手机", "電話"]
    for entry in entries:
        written = json.loads((bundle / entry["file"]).read_text("utf-8"))
        assert written["device"] == entry["device"]


def test_a_result_under_an_older_name_is_replaced(bundle: Path, result: dict[str, Any]) -> None:
    """Earlier versions named a file by the device alone."""
    library.attest(bundle, sent(bundle, result))
    manifest = fake.manifest_of(bundle)
    (entry,) = manifest["attestations"]
    (bundle / entry["file"]).rename(bundle / "attestations" / "some-phone-9-onnxruntime.json")
    for listed in manifest["files"]:
        if listed["path"] == entry["file"]:
            listed["path"] = "attestations/some-phone-9-onnxruntime.json"
    entry["file"] = "attestations/some-phone-9-onnxruntime.json"
    fake.save(bundle, manifest)
    assert read.integrity(read.read(bundle)) == ()
    library.attest(bundle, sent(bundle, {**result, "version": "1.24"}))
    (after,) = read.read(bundle).manifest["attestations"]
    assert after["version"] == "1.24"
    assert [p.name for p in (bundle / "attestations").iterdir()] == [
        after["file"].removeprefix("attestations/")
    ]


def test_a_verified_bundle_keeps_its_state(bundle: Path, result: dict[str, Any]) -> None:
    manifest = fake.manifest_of(bundle)
    manifest["state"], manifest["simulator"] = "verified", ""
    fake.save(bundle, manifest)
    result["manifest_sha256"] = sha256_of(bundle / "manifest.json")
    library.attest(bundle, sent(bundle, result))
    assert read.read(bundle).manifest["state"] == "verified"


@pytest.mark.parametrize(
    ("name", "runtime"),
    [("onnxruntime-web", True), ("ONNX Runtime", True), ("openvino", False), ("onnx", False)],
)
def test_a_runtime_has_a_package_for_each_language(name: str, runtime: bool) -> None:
    assert library.same_runtime(name, "onnxruntime") is runtime


def with_case(index: int, **values: object) -> Change:
    return lambda document: document["cases"][index].update(values)


def flipped(document: dict[str, Any]) -> None:
    """A mask that lacks a row."""
    mask = rle.decode(document["cases"][0]["masks"][1])
    mask[0] = False
    document["cases"][0]["masks"][1] = rle.encode(mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(manifest_sha256="f" * 64), "it is for the manifest ffffffffffff"),
        (lambda d: d.update(passed=False), "the device reports that the self-test failed"),
        (lambda d: d.update(passed="yes"), "the device reports that the self-test failed"),
        (lambda d: d.update(runtime="openvino"), "it ran in openvino, the bundle is for onnx"),
        (lambda d: d["cases"].pop(), "prompt `again` is missing"),
        (lambda d: d.update(cases=[]), "prompt `point` is missing"),
        (lambda d: d["cases"].append(d["cases"][0]), "or one prompt twice"),
        (lambda d: d["cases"].append({"name": "more"}), "it has a prompt that the bundle lacks"),
        (flipped, "prompt `point`: mask IoU 0.666667, want 0.95"),
        (with_case(1, scores=[0.5, 0.95, 0.7, 0.6]), "prompt `both`: score error 5.00e-02"),
        (with_case(1, scores=[0.5]), "4 masks and 1 scores, want 4"),
        (with_case(1, scores="high"), "prompt `both`"),
        (with_case(1, masks=[]), "0 masks and 4 scores, want 4"),
        (with_case(1, masks=[{"size": [1, 1], "counts": [1]}] * 4), "has 1x1 pixels, want 6x8"),
        (with_case(1, masks=[{"size": [6, 8], "counts": [1]}] * 4), "prompt `both`"),
        (with_case(1, masks=[{"size": [1 << 40, 1], "counts": [1]}] * 4), "want 6x8"),
    ],
)
def test_invalid_results_are_refused(
    bundle: Path, result: dict[str, Any], change: Change, message: str
) -> None:
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    # The change may reach into lists that the fixture shares.
    changed = deepcopy(result)
    change(changed)
    with pytest.raises(CheckFailed) as error:
        library.attest(bundle, sent(bundle, changed))
    assert message in error.value.message
    assert {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"cases": 1}', "[" * 100_000, "[NaN]"])
def test_a_file_that_is_not_a_result_is_refused(bundle: Path, content: str) -> None:
    path = bundle.parent / "selftest.json"
    path.write_text(content, "utf-8")
    with pytest.raises(UsageError):
        library.attest(bundle, path)


def test_no_file(bundle: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        library.attest(bundle, bundle.parent / "absent.json")


def test_a_broken_bundle_and_one_without_vectors(bundle: Path, result: dict[str, Any]) -> None:
    file = sent(bundle, result)
    content = (bundle / "encoder.onnx").read_bytes()
    (bundle / "encoder.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="is not intact"):
        library.attest(bundle, file)
    (bundle / "encoder.onnx").write_bytes(content)
    manifest = fake.manifest_of(bundle)
    manifest["golden"] = None
    fake.save(bundle, manifest)
    with pytest.raises(BundleError, match="has no golden vectors"):
        library.attest(bundle, file)


# ------------------------------------------------------------------ who vouches for it


def test_a_result_must_be_signed_with_the_key(bundle: Path, result: dict[str, Any]) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tests.bundle.test_signature import keys

    secret = Ed25519PrivateKey.generate()
    _, public = keys(bundle.parent, "farm", secret)
    file = sent(bundle, result)
    with pytest.raises(CheckFailed, match=r"there is no `selftest\.json\.sig`"):
        library.attest(bundle, file, public)
    file.with_name("selftest.json.sig").write_bytes(secret.sign(file.read_bytes()))
    forged = {**result, "device": "Dearer Phone"}
    sent(bundle, forged)
    with pytest.raises(CheckFailed, match="the signature was not made with the key"):
        library.attest(bundle, file, public)
    sent(bundle, result)
    assert library.attest(bundle, file, public).signed
    assert read.read(bundle).manifest["attestations"][0]["signed"] is True
    with pytest.raises(CheckFailed, match="has a signed result for onnxruntime"):
        library.attest(bundle, sent(bundle, {**result, "version": "1.24"}))
    assert read.read(bundle).manifest["attestations"][0]["version"] == "1.23"
    newer = sent(bundle, {**result, "version": "1.25"})
    newer.with_name("selftest.json.sig").write_bytes(secret.sign(newer.read_bytes()))
    library.attest(bundle, newer, public)
    assert read.read(bundle).manifest["attestations"][0]["version"] == "1.25"


def test_a_signature_of_the_old_manifest_goes(bundle: Path, result: dict[str, Any]) -> None:
    (bundle / "manifest.json.sig").write_bytes(b"x" * 64)
    library.attest(bundle, sent(bundle, result))
    assert not (bundle / "manifest.json.sig").exists()


def test_the_command_prints_the_attestation(bundle: Path, result: dict[str, Any]) -> None:
    done = CliRunner().invoke(cli.app, ["attest", str(bundle), str(sent(bundle, result))])
    assert done.exit_code == 0
    assert done.stdout.startswith("verified on Some Phone 9, onnxruntime 1.23: min mask IoU 1.")
    assert "not signed, see --key" in done.stdout
    shown = CliRunner().invoke(cli.app, ["inspect", str(bundle)])
    assert "Some Phone 9, onnxruntime 1.23: min mask IoU 1.0000, not signed" in shown.stdout


# ------------------------------------------------------------------ masks that are not compared


def mark(bundle: Path, result: dict[str, Any], **marks: object) -> None:
    """Let a golden prompt compare mask 1 only, as if PyTorch were not confident of mask 0."""
    file = bundle / "golden" / "golden.json"
    golden = json.loads(file.read_text("utf-8"))
    found = {"compared": [1], "best_may_change": False, "stability": [0.2, 0.9, 0.9, 0.9]}
    golden["cases"][0].update(found | marks)
    file.write_text(json.dumps(golden), "utf-8")
    fake.save(bundle, fake.manifest_of(bundle))
    result["manifest_sha256"] = sha256_of(bundle / "manifest.json")


def test_masks_that_pytorch_is_unsure_of_are_not_compared(
    bundle: Path, result: dict[str, Any]
) -> None:
    mark(bundle, result)
    changed = deepcopy(result)
    changed["cases"][0]["masks"][0] = changed["cases"][0]["masks"][3]
    changed["cases"][0]["scores"] = [0.9, 0.9, 0.1, 0.1]
    done = CliRunner().invoke(cli.app, ["attest", str(bundle), str(sent(bundle, changed))])
    assert "min mask IoU 1.0000, score error 2.4e-08" in done.stdout
    assert "not compared, because PyTorch is not confident of them: 1" in done.stdout
    # The mask that is compared still decides.
    result["manifest_sha256"] = sha256_of(bundle / "manifest.json")
    flipped(result)
    with pytest.raises(CheckFailed, match=r"mask IoU 0\.666667, want 0\.95"):
        library.attest(bundle, sent(bundle, result))


def test_a_score_that_is_no_number_is_refused_in_any_mask(
    bundle: Path, result: dict[str, Any]
) -> None:
    mark(bundle, result)
    result["cases"][0]["scores"] = [None, 0.9, 0.7, 0.6]
    with pytest.raises(CheckFailed, match="prompt `point`: score error nan"):
        library.attest(bundle, sent(bundle, result))


def test_a_prompt_without_a_compared_mask(bundle: Path, result: dict[str, Any]) -> None:
    mark(bundle, result, compared=[], best_may_change=True)
    result["cases"][0]["masks"] = result["cases"][1]["masks"]
    found = library.attest(bundle, sent(bundle, result))
    assert (found.min_iou, found.not_compared) == (1.0, 2)


@pytest.mark.parametrize(
    ("marks", "fault"),
    [
        ({"compared": [2]}, "prompt `point` compares the masks [2]"),
        ({"compared": [1, 1]}, "compares the masks [1, 1]"),
        ({"compared": [True]}, "compares the masks [True]"),
        ({"compared": 1}, "cannot be read"),
        ({"best_may_change": 1}, "`1` is neither true nor false"),
        ({"stability": [0.5]}, "has the stability [0.5]"),
        ({"stability": [0.5, 0.5, 0.5, 1.5]}, "has the stability"),
        ({"stability": None}, "cannot be read"),
    ],
)
def test_marks_that_are_not_valid(
    bundle: Path, result: dict[str, Any], marks: dict[str, Any], fault: str
) -> None:
    mark(bundle, result, **marks)
    with pytest.raises(BundleError) as error:
        library.attest(bundle, sent(bundle, result))
    assert fault in error.value.message


def test_at_least_one_mask_is_compared(bundle: Path, result: dict[str, Any]) -> None:
    mark(bundle, result, compared=[])
    file = bundle / "golden" / "golden.json"
    golden = json.loads(file.read_text("utf-8"))
    golden["cases"] = golden["cases"][:1]
    file.write_text(json.dumps(golden), "utf-8")
    fake.save(bundle, fake.manifest_of(bundle))
    with pytest.raises(BundleError, match="no mask of any prompt is compared"):
        library.attest(bundle, sent(bundle, result))
