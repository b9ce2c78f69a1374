"""The words for failures of the system and of parsers; a bug has none."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export.errors import EffsamError, OutputError
from effsam_export.util.reasons import as_effsam_error, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

INVALID = "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "no space left on device"),
        (OSError("Weird"), "weird"),
        (shutil.Error([("a", "b", str(FULL)), ("c", "d", "x")]), "no space left on device"),
        (
            shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")]),
            "no space left on device",
        ),
        (shutil.Error([("a", "b", "Something else")]), "something else"),
        (shutil.SameFileError("'a' and 'a' are the same file"), "'a' and 'a' are the same file"),
    ],
)
def test_reason(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_reason_of_a_folder_that_cannot_be_copied(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "from" / name).mkdir(parents=True)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a").write_text("a file")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is the question
        shutil.copytree(tmp_path / "from", tmp_path / "to", dirs_exist_ok=True)
    assert reason_of(caught.value) == os.strerror(errno.EEXIST).lower()


class Fail(Exception):
    """An error of ONNX Runtime, which is no `RuntimeError`."""


Fail.__module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


def failure(make: Callable[[], object]) -> BaseException:
    """Return what a call raises."""
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def nested(depth: int) -> list[object]:
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "there is not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "there is not enough memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 4000000000000 bytes"
            ),
            "there is not enough memory",
        ),
        (Fail("[ONNXRuntimeError] : 1 : FAIL : bad allocation"), "there is not enough memory"),
        (
            Fail(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for "
                "requested buffer of size 4398046511104"
            ),
            "there is not enough memory",
        ),
        (failure(lambda: nested(10**6)), "it nests too deeply"),
        (failure(lambda: b"a\xff".decode()), INVALID),
        (failure("\ud800".encode), "it has a character without a code in UTF-8, U+D800"),
        (failure(lambda: int("1" * 5000)), "it has a number with thousands of digits"),
        (failure(lambda: str(16**5000)), "it has a number with thousands of digits"),
        (failure(lambda: Path("a\0b").read_bytes()), "it has a null character"),
    ],
)
def test_each_failure_has_words_in_one_error(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason
    shown = as_effsam_error(error)
    assert shown is not None
    assert reason in shown.message
    assert shown.exit_code == 2


def test_an_error_of_the_system_names_its_file(tmp_path: Path) -> None:
    shown = as_effsam_error(failure((tmp_path / ("n" * 300)).read_bytes))
    assert shown is not None
    assert shown.message == f"cannot use `{tmp_path / ('n' * 300)}`: file name too long"
    full = as_effsam_error(FULL)
    assert isinstance(full, OutputError)
    assert full.message == "cannot write a file or stream: no space left on device"


def test_a_loop_of_links_has_words(tmp_path: Path) -> None:
    """Before Python 3.13 it is a `RuntimeError`, as a bug would be."""
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for make in (lambda: (loop / "x").resolve(strict=True), (loop / "x").read_bytes):
        shown = as_effsam_error(failure(make))
        assert shown is not None
        assert shown.message.startswith(f"cannot use `{loop}")
        assert shown.message.endswith("`: too many levels of symbolic links")


def test_an_error_of_this_package_stays_as_it_is() -> None:
    error = EffsamError("known")
    assert as_effsam_error(error) is error


@pytest.mark.parametrize(
    "error",
    [ValueError("bug"), KeyError("name"), RuntimeError("bug"), OSError("of a library"), Fail("x")],
)
def test_a_bug_has_no_words(error: Exception) -> None:
    assert as_effsam_error(error) is None
