"""Our reader of the figures in `tests/golden/`: deterministic weights, sampling, comparison.

The authors' code was run on weights that are a pure function of each tensor's name and shape, so
the same weights can be made here and no checkpoint is needed. `tests/golden/README.md` says more.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

Floats = NDArray[np.float32]
Figures = dict[str, NDArray[Any]]

GOLDEN = Path(__file__).resolve().parent / "golden"
MAX_ERROR = 1e-4
RMS_ERROR = 5e-6
"""Tolerances in units of the reference's standard deviation.

The authors' FP32 differs from their float64 by rms 1e-6 and max 1e-5 (`fp32_noise`); the smallest
mistake worth catching (an epsilon wrong by ten) moves the rms by 2e-5.
"""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Figures of one architecture: what its manifest says, and arrays by key."""

    manifest: dict[str, Any]
    figures: Figures

    @property
    def state(self) -> dict[str, Floats]:
        """The deterministic weights by name; not those that keep the model's own value."""
        gains = self.manifest["gain"]
        return {
            name: weight(name, shape, gains)
            for name, shape, _, *keep in self.manifest["entries"]
            if not keep
        }

    def prompt(self, name: str, frame: str = "resized") -> Prompt:
        """A prompt of the manifest, in pixels of the resized or of the original photograph."""
        entry = self.manifest["prompts"][name][frame]
        box = entry.get("box")
        return Prompt(
            points=tuple(
                Point(x=x, y=y, label=label)
                for (x, y), label in zip(
                    entry.get("points", ()), entry.get("labels", ()), strict=True
                )
            ),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
        )


@cache
def load(name: str, root: Path = GOLDEN) -> Golden:
    """The figures in `root/name`, by default the thinned ones of this repository."""
    folder = root / name
    with np.load(folder / "golden.npz", allow_pickle=False) as content:
        figures = {key: content[key] for key in content}
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    return Golden(manifest=manifest, figures=figures)


def generator(seed: int) -> np.random.Generator:
    """The generator all these numbers come from; numpy keeps its stream the same for ever."""
    return np.random.Generator(np.random.PCG64(seed))


def fill(name: str, shape: Sequence[int]) -> Floats:
    """Weights of one floating-point tensor: seeded by its name, scaled by what it is.

    Matrices and kernels have variance 1 / fan-in, norms' weights are near 1, variances between
    0.8 and 1.2, all else is near 0.
    """
    rng = generator(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    noise = rng.standard_normal(tuple(shape)).astype(np.float32)
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        # Drawn after the noise, which is thrown away.
        return np.asarray(0.8 + 0.4 * rng.random(tuple(shape))).astype(np.float32)
    if len(shape) > 1 and leaf != "running_mean":
        fan_in = max(math.prod(shape[1:]), 1)
        return np.asarray(noise * np.float32((1 / fan_in) ** 0.5))
    if len(shape) <= 1 and (leaf in ("weight", "gamma") or leaf.endswith("scale")):
        return np.asarray(1 + 0.1 * noise).astype(np.float32)
    return np.asarray(0.1 * noise).astype(np.float32)


def weight(name: str, shape: Sequence[int], gains: Mapping[str, float]) -> Floats:
    """`fill`, times every gain whose pattern is found in the name."""
    value = fill(name, shape)
    for pattern, gain in gains.items():
        if re.search(pattern, name):
            value = np.asarray(value * np.float32(gain))
    return value


def load_weights(module: nn.Module, golden: Golden) -> nn.Module:
    """Load the deterministic weights strictly, every tensor by name; counters keep their value."""
    import torch

    own = module.state_dict()
    filled = {name: torch.from_numpy(value) for name, value in golden.state.items()}
    state = {name: filled.get(name, own[name]) for name, *_ in golden.manifest["entries"]}
    module.load_state_dict(state, strict=True)
    return module.eval()


def noise_image() -> Floats:
    """The encoder's input 1x3x1024x1024 in place of a normalised photograph."""
    return generator(7).standard_normal((1, 3, 1024, 1024)).astype(np.float32)


def synthetic_embedding() -> Floats:
    """The decoder's input 1x256x64x64 in place of a photograph's embedding."""
    return generator(11).standard_normal((1, 256, 64, 64)).astype(np.float32)


def sample(tensor: ArrayLike, count: int = 4096) -> Floats:
    """About `count` values, evenly spaced; the step is odd, or only even columns would be seen."""
    flat = np.asarray(tensor, dtype=np.float32).reshape(-1)
    return flat[:: max(1, flat.size // count) | 1]


def stats(tensor: ArrayLike) -> NDArray[np.float64]:
    """Mean, standard deviation and largest magnitude."""
    values = np.asarray(tensor, dtype=np.float64)
    return np.array([values.mean(), values.std(), np.abs(values).max()])


def compare(sampled: ArrayLike, reference: ArrayLike) -> tuple[float, float]:
    """Largest and rms difference, in units of the reference's standard deviation."""
    a, b = np.asarray(sampled, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    assert a.shape == b.shape
    unit = b.std() or 1.0
    return float(np.abs(a - b).max() / unit), float(np.sqrt(((a - b) ** 2).mean()) / unit)
