"""Bundles that are packed with their code."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import archive, read
from effsam_export.bundle.read import SIGNATURE
from effsam_export.errors import BundleError, EffsamError, UsageError
from effsam_export.integrate.packed import with_code
from tests.bundle.fake import manifest_of
from tests.integrate.tools import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend


def test_the_code_comes_with_the_bundle_and_is_checked(bundle: Path, tmp_path: Path) -> None:
    before = manifest_of(bundle)
    with with_code(bundle, ["python", "js", "python"]) as copy:
        archive.pack(copy, tmp_path / "packed.zip")
    assert manifest_of(bundle) == before
    out = tmp_path / "unpacked"
    archive.unpack(tmp_path / "packed.zip", out)
    assert sorted(p.name for p in (out / "code").iterdir()) == ["js", "python"]
    manifest = manifest_of(out)
    code = [e for e in manifest["files"] if e["path"].startswith("code/")]
    assert {e["role"] for e in code} == {"code"}
    assert [e for e in manifest["files"] if e not in code] == before["files"]
    assert {**manifest, "files": 0} == {**before, "files": 0}
    done = run([sys.executable, "selftest.py", str(out)], out / "code" / "python")
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr
    (out / "code" / "js" / "segmenter.mjs").write_text("alert(1)")
    assert any("code/js/segmenter.mjs" in p for p in read.integrity(read.read(out)))


def test_equal_bundles_give_equal_bytes(bundle: Path, tmp_path: Path) -> None:
    for name in ("1.zip", "2.zip"):
        with with_code(bundle, ["js"]) as copy:
            archive.pack(copy, tmp_path / name)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


@pytest.mark.parametrize(
    ("change", "language", "message"),
    [
        ("signed", "js", "is signed"),
        ("coded", "js", "has code already"),
        ("broken", "js", "is not intact"),
        ("", "kotlin", "code in kotlin is generated for bundles for tflite"),
        ("", "cobol", "cobol"),
    ],
)
def test_what_is_refused(
    bundle: Path, tmp_path: Path, change: str, language: str, message: str
) -> None:
    if change == "signed":
        (bundle / SIGNATURE).write_bytes(b"x" * 64)
    if change == "coded":
        with with_code(bundle, ["js"]) as copy:
            shutil.copytree(copy, tmp_path / "coded")
        bundle = tmp_path / "coded"
    if change == "broken":
        (bundle / "README.md").write_text("another")
    with (
        pytest.raises(EffsamError, match=message) as refused,
        with_code(bundle, [language]),
    ):
        raise AssertionError
    assert isinstance(refused.value, (BundleError, UsageError))
