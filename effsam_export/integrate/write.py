"""From a bundle to a folder of code."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export import integrate
from effsam_export.bundle import read, staging
from effsam_export.errors import OutputError, UsageError
from effsam_export.integrate.contract import contract_of, finds_instances
from effsam_export.integrate.instances import instance_contract_of
from effsam_export.integrate.render import MARK
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NEAR_THE_TOP = 2000
"""Characters of a file in which the mark of the generator is looked for."""


def code_for(path: Path, language: str, output: Path, *, force: bool = False) -> tuple[str, ...]:
    """Write code for a bundle; nothing is written where anything about it is not implemented.

    Args:
        path: The bundle's directory.
        language: A name from `integrate.LANGUAGES`.
        output: The folder.
        force: Replace files of an earlier call that are there; others are left as they are.

    Returns:
        Names of the files in it.

    Raises:
        BundleError: There is no bundle, or its manifest is broken.
        OutputError: The place is taken, or cannot be written.
        UsageError: The language, the kind of bundle or a rule of its contract is not supported.
    """
    module = integrate.load(language)
    bundle = read.read(path)
    backend = bundle.manifest["target"]["backend"]
    write = writer(language, bundle.manifest)
    if backend not in module.BACKENDS:
        able = integrate.INSTANCES if finds_instances(bundle.manifest) else integrate.LANGUAGES
        others = [n for n in able if backend in integrate.load(n).BACKENDS]
        raise UsageError(
            f"code in {language} is written for bundles for {', '.join(module.BACKENDS)}, "
            f"not for {backend}",
            hint=f"for {backend} there is --language {' or '.join(others)}"
            if others
            else "the bundle's README.md says what to write by hand",
        )
    files = write()
    _check_free(output, files, force=force)
    if output.is_dir() and any(output.iterdir()):
        for name, text in files.items():
            write_whole(output / name, text.encode())
        return tuple(files)
    with staging.staged(output) as work:
        for name, text in files.items():
            (work / name).write_text(text, "utf-8", newline="\n")
    return tuple(files)


def writer(language: str, manifest: Mapping[str, Any]) -> Callable[[], dict[str, str]]:
    """What writes code for a bundle of this kind.

    Raises:
        UsageError: The language has none, or a rule of the contract is not implemented.
    """
    if finds_instances(manifest):
        with_instances = integrate.load_for_instances(language)
        return partial(with_instances.instance_files, instance_contract_of(manifest))
    return partial(integrate.load(language).files, contract_of(manifest))


def _check_free(output: Path, files: dict[str, str], *, force: bool) -> None:
    """Only files that were generated are ever replaced, and only where that is asked.

    Raises:
        OutputError: Something else is there.
    """
    if not output.exists() and not output.is_symlink():
        return
    if output.is_symlink() or not output.is_dir():
        raise OutputError(
            f"`{output}` exists and is not a directory", hint="choose another --output"
        )
    if not force and any(output.iterdir()):
        raise OutputError(
            f"directory `{output}` is not empty",
            hint="choose another --output, or replace generated files with --force",
        )
    mine = [n for n in files if (output / n).exists() and not _is_generated(output / n)]
    if mine:
        raise OutputError(
            f"`{output}` has files of its own: {', '.join(f'`{n}`' for n in mine)}",
            hint="choose another --output; --force only replaces what was generated",
        )


def _is_generated(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARK in file.read(NEAR_THE_TOP)
