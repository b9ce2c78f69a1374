"""What INT8 gains: its size and speed beside the floating forms of the same component.

Timed are calls in turn on one calibration sample, on this machine and in the runtime that ships.
Where that does not run here, sizes alone are compared.
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
"""Share of the time below which INT8 is called faster: the rest is noise."""
BASELINES: tuple[Precision, ...] = ("fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One component in one precision.

    Attributes:
        bytes: Files an app ships.
        seconds: Median of a call, or None where the runtime does not run here.
    """

    precision: Precision
    bytes: int
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Int8Comparison:
    """INT8 of one component beside its floating forms.

    Attributes:
        baselines: FP16, and FP32 where times are compared; without those that could not be made.
        dot_products: The processor's instructions for products of INT8.
    """

    component: str
    int8: Variant
    baselines: tuple[Variant, ...]
    dot_products: tuple[str, ...] = ()

    @property
    def baseline(self) -> Variant | None:
        """The fastest floating form; None where nothing was timed."""
        timed = [f for f in self.baselines if f.seconds]
        return min(timed, key=lambda f: f.seconds or 0.0) if timed else None

    @property
    def time_share(self) -> float | None:
        """Time of INT8 as a share of the rival's."""
        baseline = self.baseline
        if baseline is None or not baseline.seconds or self.int8.seconds is None:
            return None
        return self.int8.seconds / baseline.seconds

    def size_share(self, precision: Precision) -> float | None:
        """Size of INT8 as a share of a floating form's."""
        other = next((f for f in self.baselines if f.precision == precision), None)
        return self.int8.bytes / other.bytes if other else None

    def sentences(self) -> tuple[str, ...]:
        """What was found, and where it is no gain, what would gain."""
        sizes = [
            f"{share:.2f} of {f.precision.upper()}'s size"
            for f in self.baselines
            if (share := self.size_share(f.precision)) is not None
        ]
        said = [f"{self.component}: {', '.join(sizes) or 'no floating form to compare with'}"]
        share, baseline = self.time_share, self.baseline
        if share is None or baseline is None:
            said.append("its runtime does not run here, so no time was compared")
        elif share <= FASTER:
            said.append(f"{share:.2f} of {baseline.precision.upper()}'s time on this machine")
        else:
            said.append(
                f"NOT FASTER than {baseline.precision.upper()} on this machine ({share:.2f} of its "
                f"time): {self._advice()}"
            )
        return tuple(said)

    def _advice(self) -> str:
        if not self.dot_products:
            return (
                "the processor has no products of INT8; one with VNNI (Intel since Ice Lake, AMD "
                "since Zen 4) or Arm's dot products, an NPU or a GPU would gain"
            )
        return (
            f"the processor has {' and '.join(self.dot_products)}, and this runtime does not gain "
            "by it here; it saves size, and another runtime, an NPU or a GPU may gain"
        )


def measure(
    exported: Sequence[Exported],
    target: TargetProfile,
    space: Workspace,
    *,
    stage_cache: StageCache | None = None,
    rounds: int = ROUNDS,
) -> tuple[Int8Comparison, ...]:
    """Compare every component that was quantized with its floating forms, which are made for it.

    Args:
        exported: The components of an INT8 export, before anything was combined.
        target: What they were exported for.
        space: Whose `scratch` takes the floating forms.
        stage_cache: Where floating forms may be already; None makes them.
        rounds: Calls of each form that count.
    """
    found = []
    for component in exported:
        quantized = component.graph.quantization
        if quantized is None or not quantized.recipe.quantizes:
            continue
        name = component.artifact.component
        with stage(f"compare {name}", space.on_event) as running:
            comparison = _compare(component, target, space.scratch, stage_cache, rounds)
            running.detail = "; ".join(comparison.sentences()).removeprefix(f"{name}: ")
        found.append(comparison)
    return tuple(found)


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
            floating = replace(target, precision=precision)
            artifacts[precision], _ = lowering.lower(plain, floating, out, log, stage_cache)
        except EffsamError:
            # The INT8 form is proven already; a rival that cannot be made is no baseline.
            continue
    calls: dict[str, Callable[[], object]] = {
        p: partial(backend.open_session(a).run, feeds) for p, a in artifacts.items() if runs
    }
    taken = timing.interleave(calls, rounds)
    forms = {
        p: Variant(
            precision=p,
            bytes=sum(f.stat().st_size for f in a.files),
            seconds=taken[p].median_s if p in taken else None,
        )
        for p, a in artifacts.items()
    }
    return Int8Comparison(
        component=artifact.component,
        int8=forms["int8"],
        baselines=tuple(forms[p] for p in BASELINES if p in forms),
        dot_products=cpu.int8_flags(),
    )
