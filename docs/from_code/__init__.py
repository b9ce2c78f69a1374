"""Tables of the reference pages, made from the package's own code when the site is built.

A page asks for one with a line `<!-- from code: NAME -->`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docs.from_code import catalogue, commands, documents, exit_codes, manifest, toml_files

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: dict[str, Callable[[], str]] = {
    "commands": commands.all_commands,
    "models": catalogue.models_table,
    "prompts": catalogue.prompts,
    "targets": catalogue.targets,
    "target options": catalogue.target_options,
    "gates": catalogue.gates,
    "INT8 schemes": catalogue.int8_schemes,
    "converter messages": catalogue.converter_messages,
    "JSON documents": documents.tables,
    "exit codes": exit_codes.errors_table,
    "manifest": manifest.tables,
    "target file": toml_files.target,
    "parity file": toml_files.parity,
    "calibration file": toml_files.calibration,
    "INT8 recipe": toml_files.int8,
    "FP16 recipe": toml_files.fp16,
    "build file": toml_files.build,
}
PLACE = re.compile(r"^<!-- from code: (.+) -->$", re.MULTILINE)


def fill(markdown: str) -> str:
    """Replace each request of a page with its table.

    Raises:
        KeyError: The page asks for a table that does not exist.
    """
    return PLACE.sub(lambda match: TABLES[match[1]](), markdown)
