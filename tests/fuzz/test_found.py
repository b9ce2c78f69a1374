"""Inputs that once ended in a traceback, in `found/READER/`, and the seeds of the fuzzers."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from effsam_export.errors import EffsamError
from tests.fuzz import readers

pytestmark = pytest.mark.backend

FOUND = sorted((Path(__file__).parent / "found").glob("*/*"))


@pytest.mark.parametrize("path", FOUND, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_finding_stays_mended(path: Path, tmp_path: Path) -> None:
    readers.read(path.parent.name, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", readers.READERS)
def test_inputs_to_begin_from(name: str, tmp_path: Path) -> None:
    """There are some, and at least one of them is read."""
    reader, suffix = readers.READERS[name]
    contents = list(readers.seeds(name))
    assert len(set(contents)) > 1
    path = tmp_path / f"input{suffix}"
    read = 0
    for content in contents:
        path.write_bytes(content)
        try:
            reader(path)
        except EffsamError:
            continue
        read += 1
    assert read > 0
