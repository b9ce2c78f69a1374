"""Directories of running processes are left alone, those of dead ones removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from effsam_export.util import owned
from effsam_export.util.owned import NEW, OLD, owned_directory, remove_abandoned
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER = """
import sys
from pathlib import Path
from effsam_export.util.owned import owned_directory
with owned_directory(Path(sys.argv[1]), sys.argv[2]) as directory:
    (directory / "new").mkdir()
    (directory / "new" / "half").write_text("half")
    if len(sys.argv) > 3:
        (directory / "old").mkdir()
        (Path(sys.argv[1]) / sys.argv[2]).rename(directory / "old" / sys.argv[2])
    print(directory, flush=True)
    sys.stdin.read()
"""


class Owner:
    """A process that holds an owned directory until it is killed."""

    def __init__(self, parent: Path, name: str, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(parent), name, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    found = Owner(tmp_path, "out")
    yield found
    found.kill()


def test_it_is_removed_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    with owned_directory(tmp_path, "out") as directory:
        assert directory.parent == tmp_path
        (directory / NEW).mkdir()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), owned_directory(tmp_path, "out"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_only_a_dead_process_loses_its_directory(tmp_path: Path, owner: Owner) -> None:
    with owned_directory(tmp_path, "another"):
        assert len(list(tmp_path.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 1
    owner.kill()
    with owned_directory(tmp_path, "another") as directory:
        assert list(tmp_path.iterdir()) == [directory]


def test_a_directory_of_this_process_is_in_use(tmp_path: Path) -> None:
    with owned_directory(tmp_path, "out") as directory:
        remove_abandoned(tmp_path)
        other = threading.Thread(target=remove_abandoned, args=(tmp_path,))
        other.start()
        other.join()
        assert (directory / owned.LOCK).is_file()


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 120, "a[b]*?", "-x", "\udc80", ".", "…"])
def test_any_name_of_an_output(tmp_path: Path, name: str) -> None:
    with owned_directory(tmp_path, name) as directory:
        directory.name.encode("ascii")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_was_moved_away_comes_back(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    Owner(tmp_path, "out", "moved").kill()
    assert not (tmp_path / "out").exists()
    remove_abandoned(tmp_path)
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_output_that_cannot_come_back_is_kept_beside(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    Owner(tmp_path, "out", "moved").kill()
    (tmp_path / "out").write_text("another")
    remove_abandoned(tmp_path)
    assert (tmp_path / "out").read_text() == "another"
    assert (tmp_path / "out.old" / "mine").read_text() == "mine"


def test_what_was_replaced_is_removed(tmp_path: Path) -> None:
    with owned_directory(tmp_path, "out") as directory:
        # A finished swap: `new` is at the output path.
        (directory / OLD / "out").mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photo").write_text("x")
    (tmp_path / ".out.effsam-1.partial").symlink_to(mine)
    (tmp_path / ".out.effsam-2.partial").write_text("a file")
    without_lock = tmp_path / ".out.effsam-3.partial"
    without_lock.mkdir()
    (without_lock / "photo").write_text("x")
    linked_lock = tmp_path / ".out.effsam-4.partial"
    linked_lock.mkdir()
    (linked_lock / owned.LOCK).symlink_to(mine / "photo")
    other_tool = tmp_path / ".out.partial"
    other_tool.mkdir()
    before = sorted(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_directory_of_another_user_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Owner(tmp_path, "out").kill()
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(100):
                with owned_directory(tmp_path, "out") as directory:
                    (directory / "file").write_text("x")
                    assert (directory / owned.LOCK).is_file()
                    assert (directory / "file").read_text() == "x"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == []
