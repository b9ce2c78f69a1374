"""Generate code for an app from the contract in a bundle's manifest.

Each language is a module with `BACKENDS`, `RUN` and `files(contract)`. The languages in `INSTANCES`
also have `instance_files(contract)`, for bundles of a segmenter.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from effsam_export.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.integrate.contract import Contract
    from effsam_export.integrate.instances import InstanceContract

LANGUAGES = {
    "python": "effsam_export.integrate.python",
    "cpp": "effsam_export.integrate.cpp",
    "js": "effsam_export.integrate.javascript",
    "swift": "effsam_export.integrate.swift",
    "kotlin": "effsam_export.integrate.kotlin",
}
INSTANCES = ("python", "cpp", "js")


class Language(Protocol):
    """The module of a language."""

    BACKENDS: Mapping[str, str]
    """Backend -> the runtime that the code needs."""
    RUN: str
    """The command that starts the self-test, in the folder that was written."""

    def files(self, contract: Contract) -> dict[str, str]:
        """Return file name -> content.

        Raises:
            UsageError: The generated code cannot fulfil the contract.
        """
        ...


class InstanceLanguage(Language, Protocol):
    """The module of a language in `INSTANCES`."""

    def instance_files(self, contract: InstanceContract) -> dict[str, str]:
        """Return file name -> content.

        Raises:
            UsageError: The generated code cannot fulfil the contract.
        """
        ...


def load(name: str) -> Language:
    """Return the module of a language.

    Raises:
        UnknownNameError: The name is not in `LANGUAGES`.
    """
    if name not in LANGUAGES:
        raise UnknownNameError("language", name, LANGUAGES)
    return cast("Language", importlib.import_module(LANGUAGES[name]))


def load_for_instances(name: str) -> InstanceLanguage:
    """Return the module of a language that supports bundles of a segmenter.

    Raises:
        UnknownNameError: The name is not in `LANGUAGES`.
        UsageError: The language does not support such bundles.
    """
    module = load(name)
    if name not in INSTANCES:
        raise UsageError(
            f"code for a bundle that finds instances is generated in {', '.join(INSTANCES)}, "
            f"not in {name}",
            hint=" or ".join(
                f"--language {n} for {', '.join(load(n).BACKENDS)}" for n in INSTANCES
            ),
        )
    return cast("InstanceLanguage", module)
