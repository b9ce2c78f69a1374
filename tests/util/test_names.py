"""Names from configuration are names of files on every system, or refused."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from effsam_export.util.names import file_key, file_name_fault
from tests.util import hostile_names

if TYPE_CHECKING:
    from pathlib import Path


def test_names_that_are_no_file_names_are_refused() -> None:
    for kind, name in hostile_names.bad_names(random.Random(22), 1200):
        assert file_name_fault(name) is not None, (kind, name)


def test_other_names_are_files(tmp_path: Path) -> None:
    for name in hostile_names.good_names(random.Random(23), 300):
        assert file_name_fault(name) is None, name
        (tmp_path / f"{name}.mask_input.npy").write_bytes(b"")
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a", "A", True),
        ("é", "e\u0301", True),
        ("É", "e\u0301", True),
        ("straße", "STRASSE", True),
        ("a", "b", False),
        ("a", "a ", False),
    ],
)
def test_names_of_one_file(first: str, second: str, same: bool) -> None:
    assert (file_key(first) == file_key(second)) is same
