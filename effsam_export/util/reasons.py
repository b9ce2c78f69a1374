"""Words for the failures of the operating system and of parsers: the one place that has them."""

from __future__ import annotations

import errno
import re
import shutil

from effsam_export.errors import EffsamError, OutputError

OUT_OF_MEMORY = re.compile(
    r"(can't|cannot|unable to) allocate memory|not enough memory|out of memory|std::bad_alloc"
    r"|bad allocation|failed to allocate memory",
    re.IGNORECASE,
)
"""Messages of torch, ONNX Runtime, OpenVINO and TensorRT, which raise no `MemoryError`."""
MEMORY_HINT = "close other programs, or choose a smaller model, image, --grid, --jobs or sample"
PATH_HINT = "check the path and its permissions"
LOOP = "Symlink loop from "
"""Begins the error that `Path.resolve` raised for a loop of links before Python 3.13."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def reason_of(error: BaseException) -> str:
    """Return why the system or a parser failed, in lower case and without the file's name.

    A `shutil.Error` of a folder holds one reason for each file; the first one is returned.
    """
    if is_out_of_memory(error):
        return "there is not enough memory"
    if isinstance(error, RecursionError):
        return "it nests too deeply"
    if isinstance(error, UnicodeEncodeError):
        code = ord(error.object[error.start])
        return f"it has a character without a code in {error.encoding.upper()}, U+{code:04X}"
    if _has_a_huge_number(error):
        return "it has a number with thousands of digits"
    if _has_a_null(error):
        return "it has a null character"
    if _is_a_loop(error):
        return "too many levels of symbolic links"
    if not isinstance(error, OSError):
        return str(error)
    text = error.strerror or str(error)
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        text = str(error.args[0][0][-1])
        # "[Errno 28] No space left on device: 'from' -> 'to'"
        match = re.match(r"\[Errno \d+\] ([^:]+)", text)
        text = match[1] if match else text
    return text.lower()


def as_effsam_error(error: BaseException) -> EffsamError | None:
    """Return the error to show for a failure that no reader explained, or None for a bug.

    A reader or writer that knows its file raises a better error itself, with `reason_of`.
    """
    if isinstance(error, EffsamError):
        return error
    reason = reason_of(error)
    if is_out_of_memory(error):
        return EffsamError(reason, hint=MEMORY_HINT)
    if _is_a_loop(error):
        name = str(error).removeprefix(LOOP).strip("'\"")
        return EffsamError(f"cannot use `{name}`: {reason}", hint=PATH_HINT)
    if isinstance(error, OSError) and error.errno is not None:
        name = error.filename
        where = f"`{name}`" if isinstance(name, str) else "a file or stream"
        if error.errno in FULL_DISK:
            return OutputError(f"cannot write {where}: {reason}", hint="free some space")
        return EffsamError(f"cannot use {where}: {reason}", hint=PATH_HINT)
    if isinstance(error, (RecursionError, UnicodeError)):
        return EffsamError(f"an input cannot be read: {reason}")
    if _has_a_huge_number(error) or _has_a_null(error):
        return EffsamError(f"an input cannot be read: {reason}")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, in Python or in a runtime."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # `Fail` and `RuntimeException` of ONNX Runtime are no subclasses of `RuntimeError`.
    foreign = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return foreign and OUT_OF_MEMORY.search(str(error)) is not None


def _has_a_huge_number(error: BaseException) -> bool:
    # Python refuses to convert integers of more than 4300 digits from or to text.
    return isinstance(error, ValueError) and "integer string conversion" in str(error)


def _is_a_loop(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith(LOOP)


def _has_a_null(error: BaseException) -> bool:
    return isinstance(error, ValueError) and str(error).startswith("embedded null ")
