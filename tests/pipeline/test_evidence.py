"""The evidence of failed exports replaces its own, and nothing of anybody else."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from effsam_export.pipeline import evidence
from tests.bundle import rivals

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"parity.json": b"{}", "report.html": b"<html>"}


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.glob("[!.]*"))


def test_it_is_replaced_by_the_next_and_removed_after_success(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = evidence.keep(output, FILES)
    assert first == tmp_path / "out.failed"
    assert names(first) == ["parity.json", "report.html"]
    assert evidence.keep(output, {"lower-encoder.log": b"crash"}) == first
    assert names(first) == ["lower-encoder.log"]
    evidence.remove(output)
    assert list(tmp_path.iterdir()) == []


def test_whatever_else_is_there_stays(tmp_path: Path) -> None:
    chance = random.Random(21)
    for number, rival in enumerate(rivals.rivals(chance, 200)):
        parent = tmp_path / str(number)
        parent.mkdir()
        taken = parent / "out.failed"
        rival.write(taken)
        before = rivals.contents(taken)
        directory = evidence.keep(parent / "out", FILES)
        assert directory == parent / "out.failed-2", rival
        assert evidence.keep(parent / "out", FILES) == directory
        evidence.remove(parent / "out")
        assert rivals.contents(taken) == before, rival
        assert list(parent.iterdir()) == [taken], rival


def change_a_file(directory: Path) -> None:
    (directory / "report.html").write_text("with a remark")


def add_a_file(directory: Path) -> None:
    (directory / "remark.txt").write_text("why it failed")


def add_a_folder(directory: Path) -> None:
    (directory / "more").mkdir()


def remove_a_file(directory: Path) -> None:
    (directory / "report.html").unlink()


def replace_a_file_by_a_link(directory: Path) -> None:
    elsewhere = directory.parent / "elsewhere.html"
    (directory / "report.html").rename(elsewhere)
    (directory / "report.html").symlink_to(elsewhere)


def link_the_list(directory: Path) -> None:
    elsewhere = directory.parent / "list.json"
    (directory / evidence.LIST).rename(elsewhere)
    (directory / evidence.LIST).symlink_to(elsewhere)


def break_the_list(directory: Path) -> None:
    (directory / evidence.LIST).write_text("[" * 100_000)


def list_other_types(directory: Path) -> None:
    (directory / evidence.LIST).write_text(json.dumps(["parity.json", "report.html"]))


@pytest.mark.parametrize(
    "change",
    [
        change_a_file,
        add_a_file,
        add_a_folder,
        remove_a_file,
        replace_a_file_by_a_link,
        link_the_list,
        break_the_list,
        list_other_types,
    ],
)
def test_what_somebody_changed_is_kept(tmp_path: Path, change: object) -> None:
    assert callable(change)
    output = tmp_path / "out"
    first = evidence.keep(output, FILES)
    change(first)
    before = rivals.contents(tmp_path)
    assert evidence.keep(output, FILES) == tmp_path / "out.failed-2"
    evidence.remove(output)
    assert rivals.contents(tmp_path) == before


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    mine = evidence.keep(tmp_path / "mine", FILES)
    (tmp_path / "out.failed").symlink_to(mine)
    evidence.keep(tmp_path / "out", {"log.txt": b""})
    evidence.remove(tmp_path / "out")
    assert names(mine) == ["parity.json", "report.html"]
    assert (tmp_path / "out.failed").is_symlink()
