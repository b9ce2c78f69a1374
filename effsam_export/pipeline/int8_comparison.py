"""Comparison of an INT8 component in size and latency with its FP16 and FP32 variants.

Latency is measured on this machine in the target's own runtime, with interleaved calls on one
calibration sample. If that runtime does not run here, only sizes are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.errors import EffsamError
from effsam_export.pipeline import lower as lowering
from effsam_export.util import cpu, timing
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from effsam_export.bundle.manifest import Exported
    from effsam_export.pipeline.stage_cache import StageCache
    from effsam_export.pipeline.workspace import Workspace
    from effsam_export.spec.stages import Artifact
    from effsam_export.spec.targets import Precision, TargetProfile
    from effsam_export.spec.tensors import Feeds

ROUNDS = 5
FASTER = 0.95
"""Share of the baseline's latency below which INT8 is called faster; above it may be noise."""
BASELINES: tuple[Precision, ...] = ("fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One component in one precision.

    Attributes:
        bytes: Size of the files an app ships.
        seconds: Median latency of a call; None if the runtime does not run here.
    """

    precision: Precision
    bytes: int
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Int8Comparison:
    """An INT8 component compared with its FP16 and FP32 variants.

    Attributes:
        baselines: FP16, and FP32 if latency is measured; without those that failed to convert.
        dot_products: The processor's instructions for INT8 dot products.
    """

    component: str
    int8: Variant
    baselines: tuple[Variant, ...]
    dot_products: tuple[str, ...] = ()

    @property
    def baseline(self) -> Variant | None:
        """The fastest FP16 or FP32 variant; None if latency was not measured."""
        timed = [f for f in self.baselines if f.seconds]
        return min(timed, key=lambda f: f.seconds or 0.0) if timed else None

    @property
    def time_share(self) -> float | None:
        """Latency of INT8 as a share of the baseline's; None if it was not measured."""
        baseline = self.baseline
        if baseline is None or not baseline.seconds or self.int8.seconds is None:
            return None
        return self.int8.seconds / baseline.seconds

    def size_share(self, precision: Precision) -> float | None:
        """Return the size of INT8 as a share of a variant's; None if there is no such variant."""
        other = next((f for f in self.baselines if f.precision == precision), None)
        return self.int8.bytes / other.bytes if other else None

    def sentences(self) -> tuple[str, ...]:
        """Return the comparison as sentences, with advice if INT8 is not faster."""
        sizes = [
            f"{share:.2f} of {f.precision.upper()}'s size"
            for f in self.baselines
            if (share := self.size_share(f.precision)) is not None
        ]
        sentences = [f"{self.component}: {', '.join(sizes) or 'no FP16 or FP32 variant'}"]
        share, baseline = self.time_share, self.baseline
        if share is None or baseline is None:
            sentences.append("its runtime does not run here, so latency was not compared")
        elif share <= FASTER:
            sentences.append(
                f"{share:.2f} of {baseline.precision.upper()}'s latency on this machine"
            )
        else:
            sentences.append(
                f"NOT FASTER than {baseline.precision.upper()} on this machine ({share:.2f} of its "
                f"latency): {self._advice()}"
            )
        return tuple(sentences)

    def _advice(self) -> str:
        if not self.dot_products:
            return (
                "the processor has no INT8 dot products; a processor with VNNI (Intel since Ice "
                "Lake, AMD since Zen 4) or Arm's dot products, an NPU or a GPU may be faster"
            )
        return (
            f"the processor has {' and '.join(self.dot_products)}, but this runtime is not faster "
            "with INT8 here; the file is smaller, and another runtime, an NPU or a GPU may be "
            "faster"
        )


def measure(
    exported: Sequence[Exported],
    target: TargetProfile,
    space: Workspace,
    *,
    stage_cache: StageCache | None = None,
    rounds: int = ROUNDS,
) -> tuple[Int8Comparison, ...]:
    """Compare every quantized component with its FP16 and FP32 variants, which are converted here.

    Args:
        exported: The components of an INT8 export, before they are combined in one file.
        target: The target of the export.
        space: Its `scratch` takes the variants.
        stage_cache: Cache that may hold the variants; None for no cache.
        rounds: Timed calls of each variant.
    """
    comparisons = []
    for component in exported:
        quantization = component.graph.quantization
        if quantization is None or not quantization.recipe.quantizes:
            continue
        name = component.artifact.component
        with stage(f"compare {name}", space.on_event) as running:
            comparison = _compare(component, target, space.scratch, stage_cache, rounds)
            running.detail = "; ".join(comparison.sentences()).removeprefix(f"{name}: ")
        comparisons.append(comparison)
    return tuple(comparisons)


def _compare(
    exported: Exported,
    target: TargetProfile,
    scratch: Path,
    stage_cache: StageCache | None,
    rounds: int,
) -> Int8Comparison:
    graph, artifact = exported.graph, exported.artifact
    assert graph.quantization is not None
    feeds: Feeds = next(iter(graph.quantization.feeds()))
    backend = backends.load(target.backend)
    runs = not backend.simulator(target.options)
    artifacts: dict[Precision, Artifact] = {"int8": artifact}
    plain = replace(graph, quantization=None)
    for precision in BASELINES if runs else BASELINES[:1]:
        out = scratch / f"{artifact.component}-{precision}"
        out.mkdir()
        log = scratch / f"compare-{artifact.component}-{precision}.log"
        try:
            variant = replace(target, precision=precision)
            artifacts[precision], _ = lowering.lower(plain, variant, out, log, stage_cache)
        except EffsamError:
            # A variant that does not convert says nothing about the INT8 artefact.
            continue
    calls: dict[str, Callable[[], object]] = {
        p: partial(backend.open_session(a).run, feeds) for p, a in artifacts.items() if runs
    }
    timings = timing.interleave(calls, rounds)
    variants = {
        p: Variant(
            precision=p,
            bytes=sum(f.stat().st_size for f in a.files),
            seconds=timings[p].median_s if p in timings else None,
        )
        for p, a in artifacts.items()
    }
    return Int8Comparison(
        component=artifact.component,
        int8=variants["int8"],
        baselines=tuple(variants[p] for p in BASELINES if p in variants),
        dot_products=cpu.int8_flags(),
    )
