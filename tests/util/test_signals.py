"""Signals unwind the stack, also out of a call that Python cannot interrupt."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from effsam_export.util import signals

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = """
import hashlib, signal, sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from effsam_export.util import signals
# A shell starts jobs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
if len(sys.argv) > 1:
    signal.signal(int(sys.argv[1]), signal.SIG_IGN)
try:
    with signals.raised():
        print("ready", flush=True)
        # Half an hour in C.
        signals.interruptible(partial(hashlib.pbkdf2_hmac, "sha256", b"", b"", 2**31 - 1))
except signals.Stopped as stop:
    print("unwound")
    signals.leave(stop.code)
"""
TWICE = """
import signal
from effsam_export.util import signals
with signals.raised():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        # `timeout` sends it to the process, and once more to its group.
        signal.raise_signal(signal.SIGTERM)
        print("whole")
"""
LEAVES = """
import atexit, threading, time
from effsam_export.util import signals
# Python would wait for it.
threading.Thread(target=time.sleep, args=(60,)).start()
atexit.register(print, "registered", end="")
signals.leave(143)
"""
SMALL_STACK = """
import ctypes, signal
from effsam_export.util import signals

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

system = ctypes.CDLL(None)
system.mmap.restype = ctypes.c_void_p
GUARD, SIZE, READ_WRITE, PRIVATE_ANONYMOUS = 65536, 5120, 3, 0x22
try:
    with signals.raised():
        # As a library does it: a stack for signals, with a page below that nothing may touch.
        memory = system.mmap(
            None, ctypes.c_size_t(GUARD + SIZE), READ_WRITE, PRIVATE_ANONYMOUS, -1, ctypes.c_long(0)
        )
        assert system.mprotect(ctypes.c_void_p(memory), ctypes.c_size_t(GUARD), 0) == 0
        assert system.sigaltstack(ctypes.byref(Stack(memory + GUARD, 0, SIZE)), None) == 0
        signal.raise_signal(signal.SIGTERM)
except signals.Stopped:
    print("unwound")
"""
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The process after its first line; it is killed if it is still there at the end."""
    command = [sys.executable, "-c", LONG, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_call_in_c_ends_at_once_and_the_stack_unwinds(number: signal.Signals) -> None:
    with started() as process:
        time.sleep(0.2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=5)
        assert output == "unwound\n"
        assert process.returncode == 128 + number


def test_an_ignored_signal_stays_ignored() -> None:
    with started(str(int(signal.SIGHUP))) as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=5)[0] == "unwound\n"


def test_a_signal_is_raised_once_while_the_stack_unwinds() -> None:
    """In a process of its own: libraries of other tests leave small stacks for signals."""
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.returncode) == ("whole\n", 143), done.stderr


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="sizes of Linux on x86-64"
)
def test_a_library_may_leave_a_small_stack_for_signals() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL_STACK], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.returncode) == ("unwound\n", 0), done.stderr


def test_the_handlers_are_restored() -> None:
    before = [signal.getsignal(n) for n in NUMBERS]
    with signals.raised():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_a_block_in_a_block_keeps_the_handler() -> None:
    """Else the second signal of `timeout` would be raised by the outer one."""
    with signals.raised():
        before = [signal.getsignal(n) for n in NUMBERS]
        with signals.raised():
            assert [signal.getsignal(n) for n in NUMBERS] == before
        assert [signal.getsignal(n) for n in NUMBERS] == before


def test_another_thread_handles_no_signals() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with signals.raised():
                pass
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_the_process_ends_without_waiting_but_calls_what_is_registered() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=10, check=False
    )
    assert (done.stdout, done.returncode) == ("registered", 143), done.stderr


def test_results_and_errors_pass() -> None:
    assert signals.interruptible(partial(int, "7")) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        signals.interruptible(partial(int, "x"))
