"""Stop a command on a signal: its stack unwinds, so that what it was writing is removed."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    Value = TypeVar("Value")

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
REPEAT_S = 2.0
"""Signals so shortly after one are ignored: `timeout` sends two, one of them to the group."""
POLL_S = 0.2
THREAD = "effsam-call"


class Stopped(SystemExit):
    """A signal asks the process to end. Its exit code is that of a shell: 128 + the signal.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class _Handler:
    """Raises `Stopped` in the main thread."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if now - self._last > REPEAT_S:
            self._last = now
            raise Stopped(number)


@contextmanager
def raised() -> Iterator[None]:
    """Raise `Stopped` in the block on the signals that end a process.

    Ignored signals stay ignored (`nohup`). Only the main thread can handle signals. A block inside
    another one changes nothing.
    """
    handler, before = _Handler(), {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        for number in numbers:
            current = signal.getsignal(number)
            if current != signal.SIG_IGN and not isinstance(current, _Handler):
                before[number] = signal.signal(number, handler)
    if before:
        _link_handler()
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _link_handler() -> None:
    """Handle a signal that means nothing here, to link the functions that handle signals.

    A library may later give signals a stack of 8 KB. The linker, which looks for a function at its
    first call, would save the registers on it, and those of a CPU with AMX do not fit. Where
    libraries are loaded already, it is too late: the signal itself could crash the process.
    """
    if "numpy" in sys.modules:
        return
    number = getattr(signal, "SIGURG", None)  # not on Windows
    if number is not None and signal.getsignal(number) == signal.SIG_DFL:
        signal.signal(number, lambda *_: None)
        signal.raise_signal(number)
        signal.signal(number, signal.SIG_DFL)


def interruptible(call: Callable[[], Value]) -> Value:
    """Return the result of a call, and let a signal interrupt the wait for it.

    Python handles a signal between two of its instructions, and a call of an inference runtime is
    one. The call therefore runs in a thread, which an interruption leaves behind.
    """
    values: list[Value] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name=THREAD, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
    if errors:
        raise errors[0]
    return values[0]


def leave(code: int) -> NoReturn:
    """End the process at once: after a signal, nobody waits for threads or for freed memory.

    Python would take one to two seconds to free the modules of torch. Functions registered with
    `atexit` are called, unless a call that `interruptible` left behind still uses what they end.
    """
    if not any(thread.name == THREAD for thread in threading.enumerate()):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
