"""A flipped byte in any file of a bundle: `verify` fails, and `run` where it opens the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import read, signature
from effsam_export.errors import BundleError
from effsam_export.inference.segment import segment
from effsam_export.pipeline.verify import verify
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.backend

PROMPT = Prompt(points=(Point(x=60, y=40),))


def flipped(bundle: Path) -> Iterator[Path]:
    """Flip a byte in the middle of one file after the other."""
    for entry in read.read(bundle).manifest["files"]:
        file = bundle / entry["path"]
        content = file.read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        file.write_bytes(changed)
        yield file
        file.write_bytes(content)


def test_verify_fails_for_every_file(bundle: Path) -> None:
    for file in flipped(bundle):
        result = verify(bundle)
        name = file.relative_to(bundle).as_posix()
        assert f"`{name}` has another sha256 than the manifest" in result.failures
        assert not result.passed


def test_run_fails_for_every_file_that_it_opens(bundle: Path, photo: Path) -> None:
    opened = read.read(bundle)
    for file in flipped(bundle):
        name = file.relative_to(bundle).as_posix()
        components = [c for c in opened.components if file in opened.artifact(c).files]
        for component in opened.components:
            if component in components:
                with pytest.raises(BundleError, match=f"`{name}` has another sha256"):
                    read.check_component(opened, component)
            else:
                read.check_component(opened, component)
        if components:
            with pytest.raises(BundleError, match=f"`{name}` has another sha256"):
                segment(bundle, photo, [PROMPT])
    assert segment(bundle, photo, [PROMPT]).prediction.masks.any()


def test_a_flipped_byte_of_a_signed_manifest(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tests.bundle.test_signature import keys

    private, public = keys(tmp_path, "ours", Ed25519PrivateKey.generate())
    signature.sign(bundle, private)
    file = bundle / "manifest.json"
    content = file.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert signature.problem(bundle, public) is not None
