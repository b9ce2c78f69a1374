"""What is measured of one bundle: opening it, an image to its first mask, and its decoder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from effsam_export.bundle import read
from effsam_export.imaging.decode import read_image
from effsam_export.inference import automatic_masks, runner
from effsam_export.inference.timed import TimedSession, centre_prompt, random_embedding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.backends import Session
    from effsam_export.inference.runner import Embedded
    from effsam_export.spec.tensors import Feeds

ENCODER, FIRST_MASK = "encoder", "first_mask"
GRID = 8
"""Prompts are points of a grid with so many on a side."""


def decoder_task(prompts: int) -> str:
    """Return the name of the latency of the decoder for a number of prompts."""
    return f"prompts_{prompts}"


class Work:
    """The measured calls of one bundle. Each returns seconds by name.

    Args:
        bundle: Directory of the bundle.
        image: The image to segment, which is read now.
        threads: Number of CPU threads; None for those of the target, or the runtime's own.
        prompts_per_call: As in `subjects.Subject`.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        bundle: Path,
        image: Path,
        threads: int | None,
        prompts_per_call: int | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bundle = read.read(bundle)
        self._model = self._bundle.model
        self._image = read_image(image).pixels
        self._threads = threads
        self._prompts_per_call = prompts_per_call
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._embedded: Embedded | None = None
        self._feeds: dict[int, list[Feeds]] = {}

    def open(self) -> dict[str, float]:
        """Check the files of the bundle, and load its graphs in the runtime."""
        start = self._clock()
        for name in self._bundle.components:
            self._sessions[name] = read.open_session(self._bundle, name, self._threads)
        return {"open": self._clock() - start}

    def first_mask(self) -> dict[str, float]:
        """Segment an image with one point: resizing, encoder, decoder, mask at original size."""
        model, prompt = self._model, centre_prompt(self._image)
        start = self._clock()
        if model.finds_instances:
            session = TimedSession(self._sessions["segmenter"], self._clock)
            found = runner.find_instances(model, session, self._image)
            runner.select_instance(model, found, prompt)
            return {FIRST_MASK: self._clock() - start, ENCODER: session.seconds}
        session = TimedSession(self._sessions["encoder"], self._clock)
        self._embedded = runner.embed(model, session, self._image)
        if "decoder" not in self._sessions:
            return {ENCODER: session.seconds}
        runner.predict(model, self._sessions["decoder"], self._embedded, prompt)
        return {FIRST_MASK: self._clock() - start, ENCODER: session.seconds}

    def decode(self, prompts: int) -> dict[str, float]:
        """Run the decoder on a number of prompts, in as few calls as it takes them."""
        if prompts not in self._feeds:
            self._feeds[prompts] = self._decoder_feeds(prompts)
        decoder = self._sessions["decoder"]
        start = self._clock()
        for feeds in self._feeds[prompts]:
            decoder.run(feeds)
        return {decoder_task(prompts): self._clock() - start}

    def _decoder_feeds(self, prompts: int) -> list[Feeds]:
        embedded = self._embedded or random_embedding(self._model, self._image)
        size = (self._image.shape[0], self._image.shape[1])
        points = automatic_masks.grid(size, GRID)[:prompts]
        per_call = min(prompts, self._prompts_per_call or prompts)
        return [
            automatic_masks.batch_feeds(self._model, embedded, points[i : i + per_call])
            for i in range(0, prompts, per_call)
        ]
