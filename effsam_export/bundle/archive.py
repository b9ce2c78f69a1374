"""Pack a bundle into one file, `NAME.effsam.zip`, and unpack it. Equal bundles give equal bytes.

Entries are stored, not deflated: deflated bytes depend on the library, and weights hardly shrink.
The manifest comes first, the other files follow in the order of their paths.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zipfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from effsam_export.bundle import read, signature, staging
from effsam_export.bundle.manifest import MANIFEST, parse
from effsam_export.bundle.read import SIGNATURE
from effsam_export.errors import BundleError, CheckFailed
from effsam_export.util.files import atomic_file
from effsam_export.util.owned import temporary_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SUFFIX = ".effsam.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every entry: the earliest a zip file can hold."""
REGULAR_FILE = stat.S_IFREG | 0o644
MAX_MANIFEST_BYTES = 16_000_000
"""A manifest is read before its hash is known; real ones have about 20 000 bytes."""
ENCRYPTED = 0x1


def pack(path: Path, output: Path) -> None:
    """Write a bundle as one file.

    Args:
        path: Directory of the bundle.
        output: The file; replaced if it existed when the call began.

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
        atomic_file(output, replace=os.path.lexists(output)) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in (MANIFEST, *names):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            entry.external_attr = REGULAR_FILE << 16
            entry.file_size = (path / name).stat().st_size
            with (path / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def unpack(archive: Path, output: Path, *, key: Path | None = None, force: bool = False) -> None:
    """Write the directory of a packed bundle, after every entry was checked.

    An entry is refused if it is not a regular file, lies outside the bundle, occurs twice, is
    encrypted or compressed, is not in the manifest, or has another size or sha256 there. A listed
    file that is missing is refused too.

    Args:
        archive: File written by `pack`.
        output: The directory; unchanged after an error.
        key: Public key that must have signed the bundle.
        force: Replace a bundle at `output`.

    Raises:
        BundleError: The file is refused; the message names every problem.
        CheckFailed: It is not signed with the key.
        OutputError: `output` exists, or cannot be written.
    """
    staging.check_output_free(output, force=force)
    if not archive.is_file():
        raise BundleError(f"`{archive}` does not exist")
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            staging.staged(output, replaces=staging.is_bundle if force else None) as work,
        ):
            _extract(archive, opened, work)
            if key is not None and (fault := signature.problem(work, key)):
                raise CheckFailed(f"`{archive}` is refused: {fault}")
    # zipfile raises the last three on damaged fields, for example a name that is not UTF-8.
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        struct.error,
        OverflowError,
        UnicodeDecodeError,
    ) as error:
        raise BundleError(f"`{archive}` is not a complete zip file: {error}") from error


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
    """Return a sentence for each entry that no packed bundle contains; opens nothing."""
    problems = []
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            problems.append(f"`{name}` lies outside the bundle")
        elif path.as_posix() != name:
            problems.append(f"`{name}` is not a normalized path")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            problems.append(f"`{name}` is a link or not a regular file")
        if entry.flag_bits & ENCRYPTED:
            problems.append(f"`{name}` is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            problems.append(f"`{name}` is compressed")
        # Names that differ only in case are one file on macOS and Windows.
        if name.casefold() in seen:
            problems.append(f"`{name}` occurs twice")
        seen.add(name.casefold())
    return problems


def listed_sizes(archive: Path, opened: zipfile.ZipFile) -> dict[str, int]:
    """Return the size of every file in the manifest, by path.

    Raises:
        BundleError: The manifest is missing, larger than 16 MB, or breaks its schema.
    """
    try:
        entry = opened.getinfo(MANIFEST)
    except KeyError:
        raise BundleError(f"`{archive}` is not a bundle: it has no `{MANIFEST}`") from None
    if entry.file_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"`{archive}` is refused: its manifest has {entry.file_size} bytes")
    manifest: dict[str, Any] = parse(opened.read(entry), f"{archive}/{MANIFEST}")
    return {e["path"]: e["size"] for e in manifest["files"]}


def content_problems(actual: dict[str, int], listed: dict[str, int]) -> list[str]:
    """Return a sentence for each difference between an archive and its manifest.

    Args:
        actual: Path -> size in bytes of the entries.
        listed: The same of the manifest.
    """
    unlisted = {MANIFEST, SIGNATURE}
    problems = [
        f"`{name}` is not in the manifest" for name in actual if name not in {*listed, *unlisted}
    ]
    for name, size in listed.items():
        if name not in actual:
            problems.append(f"`{name}` is missing")
        elif actual[name] != size:
            problems.append(f"`{name}` has {actual[name]} bytes, want {size}")
    return problems


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Yield the directory of a bundle; of a packed one, a temporary directory.

    Raises:
        BundleError: The packed file is refused.
    """
    if not path.is_file():
        yield path
        return
    with temporary_directory() as folder:
        work = folder / path.name.removesuffix(SUFFIX)
        unpack(path, work)
        yield work
