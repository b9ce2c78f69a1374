"""The file of answers: what a kill leaves of it is read, and old files are removed."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from effsam_export.errors import OutputError
from effsam_export.evaluate.answers import Answer, ImageAnswers
from effsam_export.evaluate.log import UNUSED_S, AnswerLog, remove_unused

if TYPE_CHECKING:
    from pathlib import Path

HASH, OTHER = "a" * 64, "b" * 64
ANSWERS = ImageAnswers(
    sha256=HASH,
    seconds=0.25,
    answers=(Answer(object=0, prompt="box", iou=0.5, index=2, counts="02RTT4"),),
)


def test_answers_are_found_again_for_the_same_key_and_image(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "new", {"seed": 0})
    assert log.get(1, HASH) is None
    log.add(1, ANSWERS)
    log.add("two", ANSWERS)
    again = AnswerLog(tmp_path / "new", {"seed": 0})
    assert again.get(1, HASH) == again.get("two", HASH) == ANSWERS
    assert again.get(1, OTHER) is None
    assert again.get("1", HASH) is None
    assert AnswerLog(tmp_path / "new", {"seed": 1}).get(1, HASH) is None


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_was_cut_short_is_lost_alone(cut: int, tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, {})
    log.add(1, ANSWERS)
    log.add(2, ANSWERS)
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    again = AnswerLog(tmp_path, {})
    assert again.get(1, HASH) == ANSWERS
    # Without its line break alone a line is whole.
    assert (again.get(2, HASH) == ANSWERS) == (cut == 1)
    again.add(3, ANSWERS)
    last = AnswerLog(tmp_path, {})
    assert last.get(1, HASH) == last.get(3, HASH) == ANSWERS


@pytest.mark.parametrize("line", ["3", '{"image": 1}', '{"image": [1], "answers": []}', "\udcff"])
def test_other_lines_are_passed_over(line: str, tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, {})
    log.path.write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    log.add(1, ANSWERS)
    assert AnswerLog(tmp_path, {}).get(1, HASH) == ANSWERS


def test_answers_are_forgotten(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, {})
    log.add(1, ANSWERS)
    log.forget()
    assert log.get(1, HASH) is None
    assert not log.path.exists()
    log.forget()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: file exists") as failed:
        AnswerLog(tmp_path / "file", {}).add(1, ANSWERS)
    assert "--cache-dir" in str(failed.value.hint)


def test_only_old_files_of_answers_are_removed(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("old.jsonl", "new.jsonl", "other.txt"))
    for path in (old, new, other):
        path.write_text("")
    past = time.time() - UNUSED_S - 60
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    remove_unused(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.jsonl", "other.txt"]
    remove_unused(tmp_path / "nowhere")
