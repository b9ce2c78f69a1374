"""`--verbose`: the details that the library logs, as lines on stderr.

The library logs them with the standard module `logging`, under the name `effsam_export`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOGGER = "effsam_export"
NAME = "effsam --verbose"
"""Name of our handler, by which a later command of the same process finds it."""


def show(on_line: Callable[[str], None] | None) -> None:
    """Call a function with each line that the library logs; None stops this.

    Args:
        on_line: Takes a line without its line break.
    """
    if on_line is None and "logging" not in sys.modules:
        return
    import logging

    class Handler(logging.Handler):
        """Passes the lines of each record on."""

        def emit(self, record: logging.LogRecord) -> None:
            assert on_line is not None
            for line in record.getMessage().splitlines():
                on_line(line)

    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        if handler.name == NAME:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
    if on_line is not None:
        handler = Handler()
        handler.name = NAME
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
