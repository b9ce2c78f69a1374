"""Answers that are computed once: PyTorch's, and a session's, by the bytes of what was asked."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.spec import Array, ComponentSpec, Feeds, Sample


def key_of(arrays: Iterable[tuple[str, Array | None]]) -> str:
    """A name for tensors, equal only for equal ones."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(name.encode())
        if array is not None:
            digest.update(str((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def remembering(component: ComponentSpec) -> ComponentSpec:
    """The component with a reference that computes each answer once."""
    answers: dict[str, Feeds] = {}

    def reference(module: nn.Module, sample: Sample) -> Feeds:
        prompt = sample.prompt
        mask = None if prompt is None else prompt.mask_input
        key = repr(prompt) + key_of(
            [("image", sample.image), ("embeddings", sample.embeddings), ("mask", mask)]
        )
        if key not in answers:
            answers[key] = component.reference(module, sample)
        return answers[key]

    return replace(component, reference=reference)


class Remembered:
    """A session that computes each answer once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._answers: dict[str, Feeds] = {}

    def run(self, feeds: Feeds) -> Feeds:
        key = key_of(sorted(feeds.items()))
        if key not in self._answers:
            self._answers[key] = self._session.run(feeds)
        return self._answers[key]
