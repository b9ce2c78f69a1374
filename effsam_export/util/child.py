"""A process that this package started: it ends with the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""`linux/prctl.h`."""


def end_with_parent(parent: int | None = None) -> None:
    """End this process when the thread that started it ends; Linux only.

    Otherwise the child of a killed command would keep running and hold its memory.

    Args:
        parent: Process id of the parent. If it died before this call, this process ends now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if parent is not None and _is_gone(parent):
            sys.exit(1)


def _is_gone(parent: int) -> bool:
    """Return whether the process that started this one died."""
    now = os.getppid()
    if now == parent:
        return False
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    # It may be a zombie; or the interpreter was started by a script of the parent.
    return now == 1
