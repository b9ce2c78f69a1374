"""Inputs and a session for measurements of latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.images import frame_of
from effsam_export.inference.runner import Embedded
from effsam_export.spec.prompts import Point, Prompt, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from effsam_export.backends import Session
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Feeds


class TimedSession:
    """A session that keeps how long its last call took.

    Args:
        session: The session to call.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock
        self.seconds = 0.0

    def run(self, feeds: Feeds) -> Feeds:
        start = self._clock()
        outputs = self._session.run(feeds)
        self.seconds = self._clock() - start
        return outputs


def centre_prompt(image: NDArray[np.uint8]) -> Prompt:
    """Return one point in the middle of an image HxWx3."""
    height, width = image.shape[:2]
    return Prompt(points=(Point(x=width / 2, y=height / 2),))


def random_embedding(model: ModelSpec, image: NDArray[np.uint8]) -> Embedded:
    """Return an embedding for a decoder without its encoder; times do not depend on its values."""
    encoded = {tensor.name for tensor in model.component("encoder").outputs}
    numbers = np.random.default_rng(0)
    outputs = {
        tensor.name: numbers.standard_normal([int(n) for n in tensor.shape]).astype(np.float32)
        # The decoder's own shapes: an encoder may take several images in a call.
        for tensor in model.component("decoder").inputs
        if tensor.name in encoded
    }
    return Embedded(
        frame=frame_of((image.shape[0], image.shape[1]), model.preprocess),
        sample=Sample(image=image).encoded(outputs),
    )
