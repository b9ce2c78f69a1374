"""What a long job tells its caller while it runs; the library itself never prints."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Observer = Callable[["StageEvent"], None]


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """Something that happened in a stage.

    Attributes:
        kind: `started`, `advanced` (by `done` of `total`), `finished` or `failed`.
        seconds: Wall time since the stage started.
        detail: What came out of it, as a size or a figure; empty until it finished.
    """

    kind: Literal["started", "advanced", "finished", "failed"]
    stage: str
    seconds: float = 0.0
    detail: str = ""
    done: int = 0
    total: int | None = None


class Stage:
    """A running stage, which may advance and leave a detail for its last event."""

    def __init__(self, name: str, observer: Observer) -> None:
        self.name = name
        self.detail = ""
        self.failed = False
        self._observer = observer
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time since the stage started."""
        return time.perf_counter() - self._start

    def advance(self, done: int, total: int | None) -> None:
        """Tell how far the stage is."""
        self._observer(
            StageEvent(
                kind="advanced", stage=self.name, seconds=self.seconds, done=done, total=total
            )
        )


@contextmanager
def stage(name: str, observer: Observer) -> Iterator[Stage]:
    """Announce a stage, and how it ended, around a block of work."""
    observer(StageEvent(kind="started", stage=name))
    running = Stage(name, observer)
    try:
        yield running
    except BaseException:
        running.failed = True
        raise
    finally:
        observer(
            StageEvent(
                kind="failed" if running.failed else "finished",
                stage=name,
                seconds=running.seconds,
                detail=running.detail,
            )
        )


def ignore(event: StageEvent) -> None:
    """The observer of a caller who does not care."""
    del event
