"""Write the generated code of a bundle to a folder."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from effsam_export import integrate, layouts
from effsam_export.bundle import read, staging
from effsam_export.errors import OutputError, UsageError
from effsam_export.integrate.contract import contract_of, finds_instances
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.integrate.instances import instance_contract_of
from effsam_export.integrate.render import MARK
from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

LOG = logging.getLogger(__name__)
NEAR_THE_TOP = 2000
"""Characters at the start of a file in which the mark of a generated file must be."""


def code_for(path: Path, language: str, output: Path, *, force: bool = False) -> tuple[str, ...]:
    """Write the code of a bundle.

    Args:
        path: Directory of the bundle.
        language: A name from `integrate.LANGUAGES`.
        output: The folder.
        force: Replace generated files in `output`; other files are never changed.

    Returns:
        Names of the files.

    Raises:
        BundleError: There is no bundle, or its manifest is broken.
        OutputError: The folder is not free, or cannot be written.
        UsageError: The language, the kind of bundle or a rule of its contract is not supported.
    """
    module = integrate.load(language)
    bundle = read.read(path)
    backend = bundle.manifest["target"]["backend"]
    refuse_layout(bundle)
    write = writer(language, bundle.manifest)
    if backend not in module.BACKENDS:
        able = integrate.INSTANCES if finds_instances(bundle.manifest) else integrate.LANGUAGES
        others = [n for n in able if backend in integrate.load(n).BACKENDS]
        raise UsageError(
            f"code in {language} is generated for bundles for {', '.join(module.BACKENDS)}, "
            f"not for {backend}",
            hint=f"for {backend} use --language {' or '.join(others)}"
            if others
            else "the bundle's README.md has the rules for code of your own",
        )
    files = write()
    log_code(bundle.manifest, files)
    check_free(output, files, force=force)
    if output.is_dir() and any(output.iterdir()):
        for name, text in files.items():
            write_whole(output / name, text.encode())
        return tuple(files)
    with staging.staged(output) as work:
        for name, text in files.items():
            (work / name).write_text(text, "utf-8", newline="\n")
    return tuple(files)


def writer(language: str, manifest: Mapping[str, Any]) -> Callable[[], dict[str, str]]:
    """Return a function that generates the files for a bundle.

    Raises:
        UsageError: The language or a rule of the contract is not supported.
    """
    if finds_instances(manifest):
        with_instances = integrate.load_for_instances(language)
        return partial(with_instances.instance_files, instance_contract_of(manifest))
    return partial(integrate.load(language).files, contract_of(manifest))


def log_code(manifest: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Log the contract that code is generated from, and its files."""
    target = manifest["target"]
    options = ", ".join(f"{name} {value}" for name, value in target["options"].items())
    LOG.debug("contract: sha256 %s, backend %s", fingerprint(manifest), target["backend"])
    LOG.debug("target options: %s", options or "none")
    for name, text in files.items():
        LOG.debug("%s: %d bytes", name, len(text.encode()))


def refuse_layout(bundle: read.Bundle) -> None:
    """Raise `UsageError` for a bundle in the layout of an existing app."""
    if bundle.layout is not None:
        raise UsageError(
            f"bundle `{bundle.path}` is for {layouts.load(bundle.layout).APP}, which needs no code",
            hint="export for target `onnx` to get code for an app of your own",
        )


def check_free(output: Path, files: Iterable[str], *, force: bool) -> None:
    """Refuse a folder with other files than generated ones; without `force`, with any.

    Raises:
        OutputError: The folder is not free.
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
    others = [n for n in files if (output / n).exists() and not _is_generated(output / n)]
    if others:
        raise OutputError(
            f"`{output}` has files that were not generated: {', '.join(f'`{n}`' for n in others)}",
            hint="choose another --output; --force only replaces generated files",
        )


def _is_generated(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARK in file.read(NEAR_THE_TOP)
