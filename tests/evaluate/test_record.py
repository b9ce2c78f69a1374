"""Results in a manifest: no signature is broken, and nothing else changes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import archive, attest, compare, read
from effsam_export.errors import BundleError
from effsam_export.evaluate import record
from tests.bundle import fake
from tests.evaluate.made_up import ALONE, BESIDE, EVALUATION

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An unsigned bundle of the current version."""
    return fake.write(tmp_path / "bundle")


def hash_of(bundle: Path) -> str:
    return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()


def test_results_are_added_and_the_rest_stays(bundle: Path) -> None:
    before, content = hash_of(bundle), fake.manifest_of(bundle)
    files = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    record.check(bundle)
    record.add(bundle, EVALUATION, BESIDE, before)
    manifest = read.read(bundle).manifest
    (entry,) = manifest.pop("evaluated")
    assert manifest == content
    assert entry["manifest_sha256"] == before
    assert entry["annotations"] == {
        "file": "instances.json",
        "sha256": "d" * 64,
        "images": 3,
        "objects": 3,
    }
    assert (entry["reference_sha256"], entry["simulator"]) == ("c" * 64, "an evaluator")
    (result,) = entry["results"]
    assert (result["miou"], result["interval"], result["objects"]) == (0.7, [0.5, 0.9], 3)
    assert (result["difference"], result["best_mask_changes"]) == (-0.02, 0.125)
    changed = {p for p, data in files.items() if p.read_bytes() != data}
    assert changed == {bundle / "manifest.json"}
    assert read.integrity(read.read(bundle)) == ()


def test_results_on_the_same_annotations_are_replaced(bundle: Path) -> None:
    record.add(bundle, EVALUATION, ALONE, hash_of(bundle))
    other = replace(
        EVALUATION, annotations=replace(EVALUATION.annotations, sha256="e" * 64, file="a.json")
    )
    record.add(bundle, other, ALONE, hash_of(bundle))
    middle = hash_of(bundle)
    record.add(bundle, EVALUATION, BESIDE, middle)
    first, second = read.read(bundle).manifest["evaluated"]
    assert (first["annotations"]["file"], len(first["results"])) == ("a.json", 2)
    assert (second["manifest_sha256"], len(second["results"])) == (middle, 1)


def test_a_signed_bundle_is_refused(bundle: Path) -> None:
    (bundle / "manifest.json.sig").write_bytes(b"s" * 64)
    before = hash_of(bundle)
    with pytest.raises(BundleError, match="is signed, and recording results would break"):
        record.check(bundle)
    with pytest.raises(BundleError, match="is signed, and recording results would break"):
        record.add(bundle, EVALUATION, ALONE, before)
    assert hash_of(bundle) == before


def test_packed_broken_and_old_bundles_are_refused(bundle: Path, tmp_path: Path) -> None:
    packed = tmp_path / f"b{archive.SUFFIX}"
    archive.pack(bundle, packed)
    with pytest.raises(BundleError, match="is packed"):
        record.check(packed)
    old = fake.write(tmp_path / "old", version=3)
    with pytest.raises(BundleError, match="is version 3, which cannot hold results; version 4"):
        record.check(old)
    (bundle / "encoder.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="is not intact"):
        record.check(bundle)


def test_a_manifest_that_changed_meanwhile_is_refused(bundle: Path) -> None:
    with pytest.raises(BundleError, match="was changed by another program during the evaluation"):
        record.add(bundle, EVALUATION, ALONE, "0" * 64)
    assert "evaluated" not in fake.manifest_of(bundle)


def test_a_device_with_the_manifest_before_still_counts(bundle: Path) -> None:
    before = hash_of(bundle)
    record.add(bundle, EVALUATION, ALONE, before)
    opened = read.read(bundle)
    document = {"manifest_sha256": before, "passed": True, "runtime": "ONNX Runtime"}
    assert attest.origin_problems(document, opened, hash_of(bundle)) == []
    document["manifest_sha256"] = "1" * 64
    (problem,) = attest.origin_problems(document, opened, hash_of(bundle))
    assert "it is for the manifest 111111111111" in problem


def test_a_difference_is_no_difference_of_the_contract(bundle: Path, tmp_path: Path) -> None:
    other = fake.write(tmp_path / "other")
    record.add(bundle, EVALUATION, ALONE, hash_of(bundle))
    found = compare.differences(read.read(other), read.read(bundle))
    assert {d.part for d in found} == {"parity"}
    assert compare.needed_changes(read.read(other), read.read(bundle)) == ()
