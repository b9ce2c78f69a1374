"""Records of a benchmark, and its JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from effsam_export.bench.tasks import ENCODER, FIRST_MASK, decoder_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.bench.subjects import Subject
    from effsam_export.util.machine import Machine

PROMPTS = (1, 8, 64)
"""Numbers of prompts for which the decoder is timed."""
TITLES = {
    ENCODER: "encoder",
    decoder_task(1): "1 prompt",
    decoder_task(8): "8 prompts",
    decoder_task(64): "64 prompts",
    FIRST_MASK: "first mask",
}
"""Measured latencies in the order of tables, with their headings."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Latency of one task over the repeats, in seconds."""

    p50_s: float
    p90_s: float
    minimum_s: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of one bundle.

    Attributes:
        latencies: By task, as in `TITLES`; without those that the bundle cannot do.
        open_s: Time to check its files and load its graphs, once; None if it was not opened.
        one_prompt_bytes: Peak memory of its process after its first image and prompt.
        peak_bytes: The same after all calls, of up to 64 prompts. None where memory is not known.
        failure: Why it could not be measured to the end; empty if it was.
    """

    subject: Subject
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    open_s: float | None = None
    one_prompt_bytes: int | None = None
    peak_bytes: int | None = None
    failure: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on its figures, as sentences without a full stop."""
        return (f"failed: {self.failure}",) if self.failure else self.subject.notes


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A whole benchmark.

    Attributes:
        image: Name of the image's file.
        width, height: Its size in pixels.
        threads: Number of CPU threads that was asked for, or None.
    """

    machine: Machine
    image: str
    width: int
    height: int
    warm_up: int
    repeats: int
    threads: int | None
    bundles: tuple[Measured, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each bundle that failed."""
        return tuple(f"`{b.subject.name}`: {b.failure}" for b in self.bundles if b.failure)

    @property
    def timed(self) -> bool:
        """Whether a latency of any bundle was measured."""
        return any(b.latencies for b in self.bundles)

    def document(self) -> dict[str, Any]:
        """Return the benchmark for JSON; times are in milliseconds."""
        return {
            "machine": asdict(self.machine),
            "image": {"file": self.image, "width": self.width, "height": self.height},
            "warm_up": self.warm_up,
            "repeats": self.repeats,
            "threads": self.threads,
            "bundles": [_bundle(b) for b in self.bundles],
        }


def latency_of(seconds: Sequence[float]) -> Latency:
    """Return median, 90th percentile (interpolated) and minimum of measured times."""
    return Latency(
        p50_s=quantile(seconds, 0.5), p90_s=quantile(seconds, 0.9), minimum_s=min(seconds)
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of at least one value, by linear interpolation between two of them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _bundle(measured: Measured) -> dict[str, Any]:
    subject = measured.subject
    return {
        "bundle": subject.name,
        "model": subject.model,
        "target": subject.target,
        "precision": subject.precision,
        "components": list(subject.components),
        "runtime": subject.runtime,
        "threads": subject.threads,
        "prompts_per_call": subject.prompts_per_call,
        "images_per_call": subject.images_per_call,
        "bytes": subject.bytes,
        "notes": list(measured.notes),
        "not_timed": subject.obstacle or None,
        "failure": measured.failure or None,
        "open_ms": None if measured.open_s is None else 1e3 * measured.open_s,
        "one_prompt_peak_bytes": measured.one_prompt_bytes,
        "peak_bytes": measured.peak_bytes,
        "latency_ms": {
            task: {"p50": 1e3 * v.p50_s, "p90": 1e3 * v.p90_s, "min": 1e3 * v.minimum_s}
            for task, v in measured.latencies.items()
        },
    }
