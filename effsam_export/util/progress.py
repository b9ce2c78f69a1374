"""What a long job tells its caller while it runs; the library itself never prints."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    OnEvent = Callable[["StageEvent"], None]
    OnProgress = Callable[[int, int], None]


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

    def __init__(self, name: str, on_event: OnEvent) -> None:
        self.name = name
        self.detail = ""
        self.failed = False
        self._on_event = on_event
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Wall time since the stage started."""
        return time.perf_counter() - self._start

    def on_progress(self, done: int, total: int | None) -> None:
        """Tell how far the stage is."""
        self._on_event(
            StageEvent(
                kind="advanced", stage=self.name, seconds=self.seconds, done=done, total=total
            )
        )


@contextmanager
def stage(name: str, on_event: OnEvent) -> Iterator[Stage]:
    """Announce a stage, and how it ended, around a block of work."""
    on_event(StageEvent(kind="started", stage=name))
    running = Stage(name, on_event)
    try:
        yield running
    except BaseException:
        running.failed = True
        raise
    finally:
        on_event(
            StageEvent(
                kind="failed" if running.failed else "finished",
                stage=name,
                seconds=running.seconds,
                detail=running.detail,
            )
        )


def ignore_event(event: StageEvent) -> None:
    """The observer of a caller who does not care."""
    del event
