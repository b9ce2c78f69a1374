"""Progress events of long jobs. The library reports through callbacks and never prints."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    OnEvent = Callable[["StageEvent"], None]
    OnProgress = Callable[[int, int], None]
    """Called with the number of finished steps and the total number of steps."""


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A change in the state of a stage of an export, a check or a search.

    Attributes:
        kind: `started`, `advanced` (`done` of `total` steps are finished), `finished` or `failed`;
            or `note`, with a sentence for the user as its detail.
        stage: Name of the stage, such as `trace encoder`.
        seconds: Wall time since the stage started.
        detail: The result in a few words, such as a file size; empty until the stage ends.
    """

    kind: Literal["started", "advanced", "finished", "failed", "note"]
    stage: str
    seconds: float = 0.0
    detail: str = ""
    done: int = 0
    total: int | None = None


class Stage:
    """A running stage. Set `detail` in the block to describe the result in the last event."""

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
        """Send an `advanced` event. Can be passed to a function as its `on_progress`."""
        self._on_event(
            StageEvent(
                kind="advanced", stage=self.name, seconds=self.seconds, done=done, total=total
            )
        )

    def note(self, text: str) -> None:
        """Send a `note` event."""
        self._on_event(StageEvent(kind="note", stage=self.name, seconds=self.seconds, detail=text))


@contextmanager
def stage(name: str, on_event: OnEvent) -> Iterator[Stage]:
    """Send the `started` event of a stage, and `finished` or `failed` when the block ends."""
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
    """Ignore an event: the default `on_event`."""
    del event
