"""Pack a bundle into one file, `NAME.effsam.zip`, and unpack it. Equal bundles give equal bytes.

Entries are stored, not deflated: deflated bytes depend on the library, and weights hardly shrink.
The manifest comes first, the other files follow in the order of their paths.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export.bundle import paths, read, signature, staging
from effsam_export.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES, parse
from effsam_export.bundle.read import MAX_SIGNATURE_BYTES, SIGNATURE
from effsam_export.errors import BundleError, CheckFailed, joined, shown
from effsam_export.util import zip_directory
from effsam_export.util.files import atomic_file
from effsam_export.util.owned import temporary_directory
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

SUFFIX = ".effsam.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every entry: the earliest a zip file can hold."""
REGULAR_FILE = stat.S_IFREG | 0o644
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
        raise BundleError(f"bundle `{path}` is not intact: {joined(problems)}")
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

    An entry is refused if it is not a regular file, has a name that no bundle has, occurs twice, is
    encrypted or compressed, overlaps another, is not in the manifest, or has another size or sha256
    there. A listed file that is missing is refused too.

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
    with _readable(archive):
        if not archive.is_file():
            raise BundleError(
                f"`{archive}` is not a file" if archive.exists() else f"`{archive}` does not exist"
            )
        zip_directory.check_directory(archive)
        with zipfile.ZipFile(archive) as opened:
            _check(archive, opened)
            replaces = staging.is_bundle if force else None
            with staging.staged(output, replaces=replaces) as work:
                _extract(archive, opened, work)
                if key is not None and (fault := signature.problem(work, key)):
                    raise CheckFailed(f"`{archive}` is refused: {fault}")


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Raise `BundleError` in place of what reading a damaged zip file raises."""
    try:
        yield
    except zip_directory.DAMAGED as error:
        raise BundleError(f"`{archive}` is not a complete zip file: {error}") from error
    except OSError as error:
        raise BundleError(f"`{archive}` cannot be read: {reason_of(error)}") from error


def _check(archive: Path, opened: zipfile.ZipFile) -> None:
    """Refuse an archive by its directory and its manifest, before anything is written.

    Raises:
        BundleError: With the first problems.
    """
    entries = opened.infolist()
    problems = entry_problems(entries)
    problems += [f"`{shown(n)}` overlaps another entry" for n in zip_directory.overlaps(opened)]
    if not problems:
        sizes = listed_sizes(archive, opened)
        problems = content_problems({e.filename: e.file_size for e in entries}, sizes)
    _refuse(archive, problems)


def _refuse(archive: Path, problems: list[str]) -> None:
    if problems:
        raise BundleError(f"`{archive}` is refused: {joined(problems)}")


def _extract(archive: Path, opened: zipfile.ZipFile, work: Path) -> None:
    """Write the files of a checked archive, and compare their hashes with the manifest."""
    for entry in opened.infolist():
        path = work / entry.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, path.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    _refuse(archive, list(read.integrity(read.read(work))))


def entry_problems(entries: list[zipfile.ZipInfo]) -> list[str]:
    """Return a sentence for each entry that no packed bundle contains; opens nothing."""
    problems = paths.faults(e.orig_filename for e in entries)
    for entry in entries:
        name = f"`{shown(entry.orig_filename)}`"
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            problems.append(f"{name} is a link or not a regular file")
        if entry.flag_bits & ENCRYPTED:
            problems.append(f"{name} is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            problems.append(f"{name} is compressed")
        if entry.filename == SIGNATURE and entry.file_size > MAX_SIGNATURE_BYTES:
            problems.append(f"{name} has {entry.file_size} bytes, want 64")
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
        # The name of a staging directory is longer, and a name has at most 255 bytes.
        work = folder / (path.name.removesuffix(SUFFIX)[:50].strip(".") or "bundle")
        unpack(path, work)
        yield work
