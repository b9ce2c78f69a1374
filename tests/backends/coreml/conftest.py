"""A fixture for all tests that convert with coremltools."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package", autouse=True)
def no_full_collections() -> Iterator[None]:
    """Turn off `gc.collect`, which `ct.convert` calls after each conversion.

    It visits all objects of the process and takes longer than to convert a small program. Python's
    automatic collections still run.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *_: 0)
        yield
