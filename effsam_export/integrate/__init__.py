"""Code for an app, written from a bundle's contract so that the two cannot disagree.

A language is a module of its own with three names: `BACKENDS` (of the bundles it has a runtime
for), `RUN` (how its self-test is started) and `files(contract)` (what it writes, by name). Those
in `INSTANCES` have `instance_files(contract)` too, for bundles that find instances.
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
    """What a module of the table above has."""

    BACKENDS: Mapping[str, str]
    """Backend -> the runtime that the code needs."""
    RUN: str
    """The command that starts the self-test, in the folder that was written."""

    def files(self, contract: Contract) -> dict[str, str]:
        """Every file by its name.

        Raises:
            UsageError: The language cannot do something that the contract asks for.
        """
        ...


class InstanceLanguage(Language, Protocol):
    """What a module of a language in `INSTANCES` has."""

    def instance_files(self, contract: InstanceContract) -> dict[str, str]:
        """Every file by its name.

        Raises:
            UsageError: The language cannot do something that the contract asks for.
        """
        ...


def load(name: str) -> Language:
    """The module of a language.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in LANGUAGES:
        raise UnknownNameError("language", name, LANGUAGES)
    return cast("Language", importlib.import_module(LANGUAGES[name]))


def load_for_instances(name: str) -> InstanceLanguage:
    """The module of a language that has code for bundles that find instances.

    Raises:
        UnknownNameError: There is no language of that name.
        UsageError: It has no such code.
    """
    module = load(name)
    if name not in INSTANCES:
        raise UsageError(
            f"code for a bundle that finds instances is written in {', '.join(INSTANCES)}, "
            f"not in {name}: its prompts choose masks in code of their own",
            hint=" or ".join(
                f"--language {n} has it, for {', '.join(load(n).BACKENDS)}" for n in INSTANCES
            ),
        )
    return cast("InstanceLanguage", module)
