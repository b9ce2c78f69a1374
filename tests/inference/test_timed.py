"""Inputs for measurements: what a decoder takes, without its encoder, in every layout."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export import layouts, models
from effsam_export.inference import automatic_masks, runner
from effsam_export.inference.timed import TimedSession, centre_prompt, random_embedding


@pytest.mark.backend
@pytest.mark.parametrize("layout", [None, *layouts.LAYOUTS])
def test_a_random_embedding_is_one_of_the_decoder(layout: str | None) -> None:
    # X-AnyLabeling has types of its own for some models only.
    name = "edge-sam" if layout == "x-anylabeling" else "mobile-sam"
    model = layouts.in_layout(models.get(name), layout)
    image = np.zeros((300, 400, 3), np.uint8)
    embedded = random_embedding(model, image)
    feeds = runner.decoder_feeds(model, embedded, centre_prompt(image))
    inputs = model.component("decoder").inputs
    assert set(feeds) == {t.name for t in inputs}
    for tensor in inputs:
        shape = feeds[tensor.name].shape
        assert len(shape) == len(tensor.shape)
        assert all(
            n in (m, 1) or isinstance(m, str) for n, m in zip(shape, tensor.shape, strict=True)
        )
    assert feeds["image_embeddings"].std() > 0.5
    many = automatic_masks.batch_feeds(model, embedded, [(1, 1), (2, 2), (3, 3)])
    assert set(many) == set(feeds)


def test_the_time_of_the_last_call_is_kept() -> None:
    ticks = iter([1.0, 4.0, 10.0, 11.0])

    class Echo:
        def run(self, feeds: object) -> object:
            return feeds

    session = TimedSession(Echo(), lambda: next(ticks))  # type: ignore[arg-type]
    assert session.run({"x": np.zeros(1)}).keys() == {"x"}
    assert session.seconds == 3.0
    session.run({})
    assert session.seconds == 1.0
