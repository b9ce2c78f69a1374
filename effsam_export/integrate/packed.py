"""A bundle with its generated code, for `effsam pack --with-code`."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from effsam_export import integrate
from effsam_export.bundle import read, write
from effsam_export.bundle.manifest import MANIFEST, MANIFEST_VERSION, validate
from effsam_export.errors import BundleError, UsageError, joined
from effsam_export.integrate.write import code_for
from effsam_export.util.owned import temporary_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FOLDER = "code"
"""Folder of a bundle with a folder of code for each language."""


@contextmanager
def with_code(path: Path, languages: Sequence[str]) -> Iterator[Path]:
    """Yield a copy of a bundle that also holds its code, in `code/LANGUAGE`.

    The manifest of the copy lists the code with sizes and hashes, like every other file.

    Args:
        path: Directory of the bundle.
        languages: Names from `integrate.LANGUAGES`.

    Raises:
        BundleError: The bundle is not intact.
        UsageError: The bundle is signed, has code already or is of an old version, or a language
            does not support it.
    """
    for language in languages:
        integrate.load(language)
    bundle = read.read(path)
    broken = read.integrity(bundle)
    if broken:
        raise BundleError(f"bundle `{path}` is not intact: {joined(broken)}")
    if (path / read.SIGNATURE).exists():
        raise UsageError(
            f"bundle `{path}` is signed, and code changes its manifest",
            hint="pack it without --with-code, or sign the bundle that has the code",
        )
    if bundle.manifest_version != MANIFEST_VERSION:
        raise UsageError(
            f"bundle `{path}` has manifest version {bundle.manifest_version}, which holds no code",
            hint="leave --with-code out, or export the model again",
        )
    if (path / FOLDER).exists():
        raise UsageError(f"bundle `{path}` has code already", hint="leave --with-code out")
    with temporary_directory() as work:
        # With the bundle's name, which is in what the code says about itself.
        copy = work / path.resolve().name
        shutil.copytree(path, copy)
        for language in dict.fromkeys(languages):
            code_for(copy, language, copy / FOLDER / language)
        (copy / MANIFEST).unlink()
        manifest = {**bundle.manifest, "files": write.list_files(copy)}
        validate(manifest)
        write.write_json(copy / MANIFEST, manifest)
        yield copy
