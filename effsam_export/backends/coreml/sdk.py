"""Import and call coremltools without its output on the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def load() -> Any:  # noqa: ANN401 - a package without types
    """Import coremltools and return the module.

    Its import warns about parts that need macOS and about untested versions of torch and
    scikit-learn. Both warnings are suppressed: every export is compared with PyTorch.
    """
    with _muted_logging():
        return import_module("coremltools")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings, logs and progress bars of a conversion; errors still raise.

    tqdm writes progress bars to stderr. The warnings are about torch's own classes.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), _muted_logging():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _muted_logging() -> Iterator[None]:
    """Suppress log records below ERROR of all loggers.

    coremltools logs under the names of its modules and sets the level of its logger during import.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
