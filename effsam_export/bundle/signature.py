"""A detached signature of a bundle: Ed25519 (RFC 8032) over the bytes of its manifest.

The manifest holds the sha256 of every other file, so that its signature covers them all. It is 64
raw bytes beside the manifest; `openssl pkeyutl -verify -rawin -pubin -inkey KEY.pem -in
manifest.json -sigfile manifest.json.sig` checks it without this package.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import read
from effsam_export.bundle.manifest import MANIFEST
from effsam_export.bundle.read import SIGNATURE
from effsam_export.errors import BundleError, ToolchainMissing, UsageError
from effsam_export.util.files import reason_of, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )


def sign(path: Path, key: Path) -> None:
    """Sign a bundle, in the place of a signature it has.

    Args:
        path: A bundle's directory.
        key: A private Ed25519 key in PEM (PKCS 8), without a password.

    Raises:
        BundleError: The bundle is not intact: nobody should put a name to it.
        UsageError: The key cannot be read.
        ToolchainMissing: `cryptography` is not installed.
    """
    problems = read.integrity(read.read(path))
    if problems:
        raise BundleError(f"bundle `{path}` is not intact: {'; '.join(problems)}")
    signature = private_key(key).sign((path / MANIFEST).read_bytes())
    write_whole(path / SIGNATURE, signature)


def problem(path: Path, key: Path) -> str | None:
    """Why a bundle is not signed with this key, as a sentence; None where it is.

    Args:
        path: A bundle's directory.
        key: The public Ed25519 key in PEM.

    Raises:
        UsageError: The key cannot be read.
        ToolchainMissing: `cryptography` is not installed.
    """
    return fault(path / MANIFEST, path / SIGNATURE, key)


def fault(file: Path, signature: Path, key: Path) -> str | None:
    """Why a file is not signed with a key, as a sentence; None where it is.

    Args:
        file: Any.
        signature: 64 bytes.
        key: The public Ed25519 key in PEM.
    """
    public = public_key(key)
    from cryptography.exceptions import InvalidSignature

    if not signature.is_file():
        return f"it is not signed: there is no `{signature.name}`"
    try:
        public.verify(signature.read_bytes(), file.read_bytes())
    except InvalidSignature:
        return f"the signature was not made with the key of `{key.name}` for this `{file.name}`"
    return None


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key that signs."""
    _require()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    found = _read(path, lambda data: serialization.load_pem_private_key(data, None))
    if not isinstance(found, Ed25519PrivateKey):
        raise UsageError(
            f"key `{path}` is not Ed25519", hint="openssl genpkey -algorithm ed25519 -out key.pem"
        )
    return found


def public_key(path: Path) -> Ed25519PublicKey:
    """Read the key that checks."""
    _require()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    found = _read(path, serialization.load_pem_public_key)
    if not isinstance(found, Ed25519PublicKey):
        raise UsageError(f"key `{path}` is not Ed25519")
    return found


def _require() -> None:
    if find_spec("cryptography") is None:
        raise ToolchainMissing("signing", "cryptography", "sign")


def _read(path: Path, load: Callable[[bytes], Any]) -> Any:  # noqa: ANN401 - any kind of key
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"key `{path}` cannot be read: {reason_of(error)}") from error
    except (TypeError, ValueError) as error:
        # A key with a password is a TypeError there, one of the other kind a ValueError.
        raise UsageError(
            f"key `{path}` cannot be read: it is no PEM key of this kind, or has a password",
            hint="to sign, a private key; to check, the public one: "
            "openssl pkey -in key.pem -pubout -out public.pem",
        ) from error
