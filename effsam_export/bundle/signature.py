"""Sign a bundle and check its signature: Ed25519 (RFC 8032) over the bytes of the manifest.

The manifest holds the sha256 of every other file, so the signature covers all files. It is a file
of 64 bytes beside the manifest; `openssl pkeyutl -verify -rawin -pubin -inkey KEY.pem -in
manifest.json -sigfile manifest.json.sig` checks it without this package.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import read
from effsam_export.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES
from effsam_export.bundle.read import MAX_SIGNATURE_BYTES, SIGNATURE
from effsam_export.errors import BundleError, ToolchainMissing, UsageError, joined
from effsam_export.util.files import write_whole
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )


MAX_KEY_BYTES = 64_000
"""A PEM key has about a hundred bytes; comments around it may have more."""


def sign(path: Path, key: Path) -> None:
    """Sign a bundle; a signature it has is replaced.

    Args:
        path: Directory of the bundle.
        key: A private Ed25519 key in PEM (PKCS 8), without a password.

    Raises:
        BundleError: The bundle is not intact.
        UsageError: The key cannot be read.
        ToolchainMissing: `cryptography` is not installed.
    """
    problems = read.integrity(read.read(path))
    if problems:
        raise BundleError(f"bundle `{path}` is not intact: {joined(problems)}")
    signature = private_key(key).sign((path / MANIFEST).read_bytes())
    write_whole(path / SIGNATURE, signature)


def problem(path: Path, key: Path) -> str | None:
    """Return why a bundle is not signed with a key; None if it is.

    Args:
        path: Directory of the bundle.
        key: The public Ed25519 key in PEM.

    Raises:
        UsageError: The key cannot be read.
        ToolchainMissing: `cryptography` is not installed.
    """
    with (path / MANIFEST).open("rb") as file:
        content = file.read(MAX_MANIFEST_BYTES)
    return fault(content, MANIFEST, path / SIGNATURE, key)


def fault(content: bytes, name: str, signature: Path, key: Path) -> str | None:
    """Return why a file is not signed with a key; None if it is.

    Args:
        content: Bytes of the signed file.
        name: Its name, for messages.
        signature: File with the 64 bytes of the signature.
        key: The public Ed25519 key in PEM.
    """
    public = public_key(key)
    from cryptography.exceptions import InvalidSignature

    if not signature.is_file():
        return f"it is not signed: there is no `{signature.name}`"
    if signature.is_symlink():
        return f"`{signature.name}` is a link"
    try:
        with signature.open("rb") as file:
            public.verify(file.read(MAX_SIGNATURE_BYTES), content)
    except OSError as error:
        return f"`{signature.name}` cannot be read: {reason_of(error)}"
    except InvalidSignature:
        return f"the signature was not made with the key of `{key.name}` for this `{name}`"
    return None


def private_key(path: Path) -> Ed25519PrivateKey:
    """Return a private key for signing.

    Raises:
        UsageError: The file cannot be read, or holds another kind of key.
        ToolchainMissing: `cryptography` is not installed.
    """
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
    """Return a public key for checking.

    Raises:
        UsageError: The file cannot be read, or holds another kind of key.
        ToolchainMissing: `cryptography` is not installed.
    """
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
        with path.open("rb") as file:
            return load(file.read(MAX_KEY_BYTES))
    except OSError as error:
        raise UsageError(f"key `{path}` cannot be read: {reason_of(error)}") from error
    except (TypeError, ValueError) as error:
        # `load` raises TypeError for a key with a password, ValueError for another kind of key.
        raise UsageError(
            f"key `{path}` cannot be read: it is not a PEM key of this kind, or has a password",
            hint="signing needs the private key, checking the public one: "
            "openssl pkey -in key.pem -pubout -out public.pem",
        ) from error
