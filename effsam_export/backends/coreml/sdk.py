"""coremltools, imported and called without its notes on the terminal."""

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
    """The coremltools package.

    Its import says on stderr which of its parts need macOS, and that newer versions of torch and
    scikit-learn are untested. The first is known (`coreml.simulator`), the second is what the
    comparison with PyTorch is for.
    """
    with _muted_logging():
        return import_module("coremltools")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what coremltools and `torch.export` tell during a conversion; errors still raise.

    Progress bars go to stderr, by tqdm; the warnings are about torch's own classes.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), _muted_logging():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _muted_logging() -> Iterator[None]:
    """Hold back log records below ERROR.

    For all loggers: coremltools sets the level of its own one during import, and logs under the
    names of its modules.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
