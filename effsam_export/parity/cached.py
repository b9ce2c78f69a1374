"""Answers that are computed once: PyTorch's, and a session's, by the bytes of what was asked.

They are held in memory, or in a cache on disk that exports share (`stage_cache.Answers`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.prompts import Sample
    from effsam_export.spec.tensors import Array, Feeds


class OutputCache(Protocol):
    """Answers by question."""

    def get(self, question: str) -> Feeds | None:
        """An answer; None where there is none."""

    def put(self, question: str, answer: Feeds) -> None:
        """Keep an answer."""


class MemoryCache:
    """A cache in memory."""

    def __init__(self) -> None:
        self._answers: dict[str, Feeds] = {}

    def get(self, question: str) -> Feeds | None:
        """An answer; None where there is none."""
        return self._answers.get(question)

    def put(self, question: str, answer: Feeds) -> None:
        """Keep an answer."""
        self._answers[question] = answer


def key_of(arrays: Iterable[tuple[str, Array | None]]) -> str:
    """A name for tensors, equal only for equal ones."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(name.encode())
        if array is not None:
            digest.update(str((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def cached_reference(component: ComponentSpec, cache: OutputCache | None = None) -> ComponentSpec:
    """The component with a reference that computes each answer once.

    Args:
        component: Whose answers they are.
        cache: Where they are kept; in this process where None.
    """
    answers = MemoryCache() if cache is None else cache

    def reference(module: nn.Module, sample: Sample) -> Feeds:
        prompt = sample.prompt
        mask = None if prompt is None else prompt.mask_input
        key = repr(prompt) + key_of(
            [("image", sample.image), ("embeddings", sample.embeddings), ("mask", mask)]
        )
        if (answer := answers.get(key)) is None:
            answer = component.reference(module, sample)
            answers.put(key, answer)
        return answer

    return replace(component, reference=reference)


class CachedSession:
    """A session that computes each answer once."""

    def __init__(self, session: Session, cache: OutputCache | None = None) -> None:
        self._session = session
        self._answers: OutputCache = MemoryCache() if cache is None else cache

    def run(self, feeds: Feeds) -> Feeds:
        key = key_of(sorted(feeds.items()))
        if (answer := self._answers.get(key)) is None:
            answer = self._session.run(feeds)
            self._answers.put(key, answer)
        return answer
