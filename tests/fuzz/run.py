"""Fuzz one reader with atheris: `python -m tests.fuzz.run NAME FOLDER [options of libFuzzer]`.

Inputs to begin from and files of findings are written to FOLDER. libFuzzer ends with an error at an
exception, at an input that takes longer than `-timeout`, and at more memory than `-rss_limit_mb`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

from tests.fuzz import readers

INSTRUMENTED = ["effsam_export", "pickletools", "tomllib", "json.decoder", "PIL"]
"""Modules whose branches guide the fuzzer: those that take inputs apart in Python."""


def main(name: str, folder: Path, options: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    corpus, work = folder / "corpus", folder / "work"
    for made in (corpus, work):
        made.mkdir(parents=True, exist_ok=True)
    # Functions import what they need when they are called.
    with atheris.instrument_imports(include=INSTRUMENTED):
        for number, content in enumerate(readers.seeds(name)):
            (corpus / f"{number:04d}").write_bytes(content)
            readers.read(name, content, work)
    atheris.Setup(
        [sys.argv[0], *options, f"-artifact_prefix={folder}/finding-", str(corpus)],
        lambda content: readers.read(name, content, work),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
