"""Caches for the outputs of PyTorch and of sessions, by a hash of the inputs.

Outputs are cached in memory, or on disk for other exports (`pipeline.stage_cache.CachedOutputs`).
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
    """Output tensors by key."""

    def get(self, key: str) -> Feeds | None:
        """Return the outputs for a key; None if there are none."""

    def put(self, key: str, outputs: Feeds) -> None:
        """Store the outputs for a key."""


class MemoryCache:
    """A cache in memory."""

    def __init__(self) -> None:
        self._outputs: dict[str, Feeds] = {}

    def get(self, key: str) -> Feeds | None:
        """Return the outputs for a key; None if there are none."""
        return self._outputs.get(key)

    def put(self, key: str, outputs: Feeds) -> None:
        """Store the outputs for a key."""
        self._outputs[key] = outputs


def key_of(arrays: Iterable[tuple[str, Array | None]]) -> str:
    """Return the SHA-256 of named tensors: their names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(name.encode())
        if array is not None:
            digest.update(str((array.shape, array.dtype)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def cached_reference(component: ComponentSpec, cache: OutputCache | None = None) -> ComponentSpec:
    """Return the component with a `reference` that computes the outputs of each sample once.

    Args:
        component: The component.
        cache: Cache for the outputs; None for a new one in memory.
    """
    outputs_by_key = MemoryCache() if cache is None else cache

    def reference(module: nn.Module, sample: Sample) -> Feeds:
        prompt = sample.prompt
        mask = None if prompt is None else prompt.mask_input
        key = repr(prompt) + key_of(
            [("image", sample.image), ("embeddings", sample.embeddings), ("mask", mask)]
        )
        if (outputs := outputs_by_key.get(key)) is None:
            outputs = component.reference(module, sample)
            outputs_by_key.put(key, outputs)
        return outputs

    return replace(component, reference=reference)


class CachedSession:
    """A session that computes the outputs for each input once.

    Args:
        session: The session to call.
        cache: Cache for the outputs; None for a new one in memory.
    """

    def __init__(self, session: Session, cache: OutputCache | None = None) -> None:
        self.session = session
        self.cache: OutputCache = MemoryCache() if cache is None else cache

    def run(self, feeds: Feeds) -> Feeds:
        key = key_of(sorted(feeds.items()))
        if (outputs := self.cache.get(key)) is None:
            outputs = self.session.run(feeds)
            self.cache.put(key, outputs)
        return outputs
