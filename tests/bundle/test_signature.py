"""Who signed a bundle."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from effsam_export.bundle import archive, signature
from effsam_export.errors import BundleError, CheckFailed, ToolchainMissing, UsageError
from tests.bundle import fake

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

pytest.importorskip("cryptography")
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "tiny")


def keys(folder: Path, name: str, key: PrivateKeyTypes, password: bytes = b"") -> tuple[Path, Path]:
    how = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, how))
    public.write_bytes(
        key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def ours(tmp_path: Path) -> tuple[Path, Path]:
    return keys(tmp_path, "ours", ed25519.Ed25519PrivateKey.generate())


def test_a_signature_holds_for_its_key_alone(
    bundle: Path, ours: tuple[Path, Path], tmp_path: Path
) -> None:
    signature.sign(bundle, ours[0])
    assert signature.problem(bundle, ours[1]) is None
    _, theirs = keys(tmp_path, "theirs", ed25519.Ed25519PrivateKey.generate())
    found = signature.problem(bundle, theirs)
    assert found == (
        "the signature was not made with the key of `theirs.pub.pem` for this `manifest.json`"
    )


def test_another_manifest_needs_another_signature(bundle: Path, ours: tuple[Path, Path]) -> None:
    signature.sign(bundle, ours[0])
    manifest = fake.manifest_of(bundle)
    manifest["parity"]["min_mask_iou"] = 0.9999
    fake.save(bundle, manifest)
    assert "for this `manifest.json`" in str(signature.problem(bundle, ours[1]))


@pytest.mark.parametrize("content", [b"", b"x" * 64, b"x" * 63, b"x" * 1000])
def test_bytes_that_are_no_signature(bundle: Path, ours: tuple[Path, Path], content: bytes) -> None:
    (bundle / "manifest.json.sig").write_bytes(content)
    assert signature.problem(bundle, ours[1]) is not None


def test_a_bundle_without_a_signature(bundle: Path, ours: tuple[Path, Path]) -> None:
    assert signature.problem(bundle, ours[1]) == (
        "it is not signed: there is no `manifest.json.sig`"
    )


def test_a_broken_bundle_is_not_signed(bundle: Path, ours: tuple[Path, Path]) -> None:
    (bundle / "README.md").unlink()
    with pytest.raises(BundleError, match=r"`README\.md` is missing"):
        signature.sign(bundle, ours[0])
    assert not (bundle / "manifest.json.sig").exists()


def test_the_signature_goes_with_the_file(
    bundle: Path, ours: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, signed = tmp_path / "plain.zip", tmp_path / "signed.zip"
    archive.pack(bundle, plain)
    signature.sign(bundle, ours[0])
    archive.pack(bundle, signed)
    archive.unpack(signed, tmp_path / "out", key=ours[1])
    assert signature.problem(tmp_path / "out", ours[1]) is None
    with pytest.raises(CheckFailed, match="is refused: it is not signed"):
        archive.unpack(plain, tmp_path / "unsigned", key=ours[1])
    assert not (tmp_path / "unsigned").exists()


def test_keys_that_are_none(bundle: Path, ours: tuple[Path, Path], tmp_path: Path) -> None:
    locked, _ = keys(tmp_path, "locked", ed25519.Ed25519PrivateKey.generate(), b"secret")
    curve, curve_public = keys(tmp_path, "curve", ec.generate_private_key(ec.SECP256R1()))
    text = tmp_path / "text.pem"
    text.write_text("no key")
    for key, message in [
        (locked, "has a password"),
        (curve, "is not Ed25519"),
        (text, "it is not a PEM key"),
        (ours[1], "it is not a PEM key"),
        (tmp_path / "absent.pem", "no such file"),
    ]:
        with pytest.raises(UsageError, match=message):
            signature.sign(bundle, key)
    for key, message in [(curve_public, "is not Ed25519"), (ours[0], "it is not a PEM key")]:
        with pytest.raises(UsageError, match=message):
            signature.problem(bundle, key)


def test_the_package_is_missing(
    bundle: Path, ours: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signature, "find_spec", lambda name: None)
    with pytest.raises(ToolchainMissing, match="`cryptography`"):
        signature.sign(bundle, ours[0])


def test_openssl_agrees(bundle: Path, ours: tuple[Path, Path]) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    signature.sign(bundle, ours[0])
    command = [openssl, "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(ours[1])]
    command += ["-in", "manifest.json", "-sigfile", "manifest.json.sig"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
