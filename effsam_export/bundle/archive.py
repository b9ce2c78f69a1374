"""A bundle as one file, `NAME.effsam.zip`: equal bundles are equal bytes, nothing else gets in.

Entries are stored, not deflated: what deflating gives depends on the library, and weights hardly
shrink. The manifest comes first, the other files follow by their path.
"""

from __future__ import annotations

import shutil
import stat
import struct
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from effsam_export.bundle import read, signature, staging
from effsam_export.bundle.manifest import MANIFEST, parse
from effsam_export.bundle.read import SIGNATURE
from effsam_export.errors import BundleError, CheckFailed
from effsam_export.util.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SUFFIX = ".effsam.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can hold."""
REGULAR = stat.S_IFREG | 0o644
MAX_MANIFEST_BYTES = 16_000_000
"""Bytes; a manifest is read before anything says how large it may be. Ours have some 20 000."""
ENCRYPTED = 0x1


def pack(path: Path, output: Path) -> None:
    """Write a bundle as one file.

    Args:
        path: A bundle's directory.
        output: The file, replaced where it is there already.

    Raises:
        BundleError: The bundle is not intact.
        OutputError: The file cannot be written.
    """
    bundle = read.read(path)
    problems = read.integrity(bundle)
    if problems:
        raise BundleError(f"bundle `{path}` is not intact: {'; '.join(problems)}")
    names = sorted(e["path"] for e in bundle.manifest["files"])
    if (path / SIGNATURE).is_file():
        names.insert(0, SIGNATURE)
    with (
        atomic_file(output) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in (MANIFEST, *names):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            entry.external_attr = REGULAR << 16
            entry.file_size = (path / name).stat().st_size
            with (path / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def unpack(archive: Path, output: Path, *, key: Path | None = None, force: bool = False) -> None:
    """Make a bundle's directory of its file; nothing is at `output` unless all of it is right.

    Refused are: entries that are not files, leave the bundle, come twice, are encrypted or
    deflated, are not in the manifest, are missing, or have another size or sha256 than it says.

    Args:
        archive: As `pack` writes it.
        output: The directory.
        key: The public key that has to have signed it.
        force: Replace a bundle that is there.

    Raises:
        BundleError: Everything that is wrong with the file.
        CheckFailed: It is not signed with the key.
        OutputError: The place is taken, or cannot be written.
    """
    staging.check_output_free(output, force=force)
    if not archive.is_file():
        raise BundleError(f"`{archive}` does not exist")
    try:
        with zipfile.ZipFile(archive) as opened, staging.staged(output) as work:
            _extract(archive, opened, work)
            if key is not None and (fault := signature.problem(work, key)):
                raise CheckFailed(f"`{archive}` is refused: {fault}")
    # The last three are what the reader says of damaged fields, as a name that is no UTF-8.
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        struct.error,
        OverflowError,
        UnicodeDecodeError,
    ) as error:
        raise BundleError(f"`{archive}` is not a whole zip file: {error}") from error


def _extract(archive: Path, opened: zipfile.ZipFile, work: Path) -> None:
    entries = opened.infolist()
    problems = entry_problems(entries)
    if not problems:
        sizes = listed_sizes(archive, opened)
        problems = content_problems({e.filename: e.file_size for e in entries}, sizes)
    if problems:
        raise BundleError(f"`{archive}` is refused: {'; '.join(problems)}")
    for entry in entries:
        path = work / entry.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    broken = read.integrity(read.read(work))
    if broken:
        raise BundleError(f"`{archive}` is refused: {'; '.join(broken)}")


def entry_problems(entries: list[zipfile.ZipInfo]) -> list[str]:
    """What no bundle's file has, as sentences; nothing is opened for it."""
    problems = []
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            problems.append(f"`{name}` leaves the bundle")
        elif path.as_posix() != name:
            problems.append(f"`{name}` is not a plain path of a file")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            problems.append(f"`{name}` is a link or another thing that is no file")
        if entry.flag_bits & ENCRYPTED:
            problems.append(f"`{name}` is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            problems.append(f"`{name}` is compressed")
        # Two names that differ in case are one file on a Mac and on Windows.
        if name.casefold() in seen:
            problems.append(f"`{name}` is there twice")
        seen.add(name.casefold())
    return problems


def listed_sizes(archive: Path, opened: zipfile.ZipFile) -> dict[str, int]:
    """Size by path of every file that the manifest lists.

    Raises:
        BundleError: The manifest is missing, too large, or breaks its schema.
    """
    try:
        entry = opened.getinfo(MANIFEST)
    except KeyError:
        raise BundleError(f"`{archive}` is not a bundle: there is no `{MANIFEST}` in it") from None
    if entry.file_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"`{archive}` is refused: its manifest has {entry.file_size} bytes")
    manifest: dict[str, Any] = parse(opened.read(entry), f"{archive}/{MANIFEST}")
    return {e["path"]: e["size"] for e in manifest["files"]}


def content_problems(found: dict[str, int], listed: dict[str, int]) -> list[str]:
    """Where sizes by path differ from what a manifest lists, as sentences."""
    free = {MANIFEST, SIGNATURE}
    problems = [
        f"`{name}` is not in the manifest" for name in found if name not in {*listed, *free}
    ]
    for name, size in listed.items():
        if name not in found:
            problems.append(f"`{name}` is missing")
        elif found[name] != size:
            problems.append(f"`{name}` has {found[name]} bytes, want {size}")
    return problems


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """A bundle's directory: the one given, or a file's contents for as long as the block runs.

    Raises:
        BundleError: What is wrong with the file.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="effsam-") as name:
        work = Path(name) / path.name.removesuffix(SUFFIX)
        unpack(path, work)
        yield work
