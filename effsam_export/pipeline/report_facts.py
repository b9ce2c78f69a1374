"""What a report says beside parity: weights, licence, tools, machine, sizes and latencies.

Latency is measured on this machine in the target's own runtime, a few calls of each component. If
that runtime does not run here, only sizes are stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from effsam_export._version import __version__
from effsam_export.imaging.decode import read_image
from effsam_export.inference import runner
from effsam_export.inference.timed import centre_prompt, random_embedding
from effsam_export.parity.cached import CachedSession, MemoryCache
from effsam_export.spec.prompts import Sample
from effsam_export.spec.slots import in_every_slot
from effsam_export.util import machine, timing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.backends import Session
    from effsam_export.bundle.manifest import Exported
    from effsam_export.parity.comparison import Sides
    from effsam_export.pipeline.int8_comparison import Int8Comparison
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.targets import Precision
    from effsam_export.spec.tensors import Feeds

ROUNDS, BUDGET_S = 3, 2.0
"""Timed calls of a component, and the time for them: fewer calls of a slow one."""
LATENCY = "latency"
"""Name of the latency among the cached outputs of an artefact."""


@dataclass(frozen=True, kw_only=True)
class ComponentFacts:
    """One exported component.

    Attributes:
        files: Names of the files that a runtime opens.
        bytes: Their size.
        seconds: Median latency of a call, of the decoder for one prompt; None without the runtime.
    """

    component: str
    precision: Precision
    files: tuple[str, ...]
    bytes: int
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """The facts of an export.

    Attributes:
        weights: File name of the checkpoint.
        sha256: Of that file.
        weights_sha256: Of the weights themselves, whatever their file's format.
        official: It is the authors' file.
        licence: SPDX identifier of the weights' licence.
        licence_notice: Remarks on it; may be empty.
        tools: Package -> version.
        machine: The machine of the export, on one line.
        bytes: Size of the files that a runtime opens, each counted once.
    """

    weights: str
    sha256: str
    weights_sha256: str
    official: bool
    licence: str
    licence_notice: str
    tools: Mapping[str, str]
    machine: str
    components: tuple[ComponentFacts, ...]
    bytes: int

    @property
    def timed(self) -> bool:
        """Whether a latency was measured."""
        return any(c.seconds is not None for c in self.components)


def collect(
    plan: ExportPlan,
    weights_sha256: str,
    exported: Sequence[Exported],
    sides: Sides,
    comparisons: Sequence[Int8Comparison],
    versions: Mapping[str, str],
) -> ReportFacts:
    """Return the facts of an export, after measuring what is not measured yet.

    Args:
        plan: The export.
        weights_sha256: Hash of the weights.
        exported: The components.
        sides: The same, opened.
        comparisons: The comparisons of an INT8 export, whose latencies are taken.
        versions: Package -> version of the tools of the export.
    """
    seconds = {c.component: c.int8.seconds for c in comparisons if c.int8.seconds is not None}
    if not sides.simulator:
        missing = [e.artifact.component for e in exported if e.artifact.component not in seconds]
        seconds |= measure(plan, {name: sides.artifacts[name] for name in missing})
    files = {f for e in exported for f in e.artifact.files}
    licence, checkpoint = plan.model.licence, plan.weights
    return ReportFacts(
        weights=checkpoint.path.name,
        sha256=checkpoint.sha256,
        weights_sha256=weights_sha256,
        official=checkpoint.official,
        licence=licence.spdx,
        licence_notice=licence.notice,
        tools={"effsam-export": __version__, **versions},
        machine=machine.describe().sentence(),
        components=tuple(
            ComponentFacts(
                component=e.artifact.component,
                precision=e.artifact.precision,
                files=tuple(f.name for f in e.artifact.files),
                bytes=sum(f.stat().st_size for f in e.artifact.files),
                seconds=seconds.get(e.artifact.component),
            )
            for e in exported
        ),
        bytes=sum(f.stat().st_size for f in files),
    )


def measure(plan: ExportPlan, sessions: Mapping[str, Session]) -> dict[str, float]:
    """Return the median latency of opened components, in seconds by name.

    They run on the first evaluation image, the decoder on one point in its middle. An export that
    uses the stage cache takes the latency that an earlier one measured on this machine.
    """
    first = plan.parity_images[0]
    image = read_image(first.path, first.value_range).pixels
    model, found = plan.model, dict[str, float]()
    for name, session in sessions.items():
        feeds: Feeds
        if name == "decoder":
            # What an encoder gives for it does not change the time.
            embedded = random_embedding(model, image)
            feeds = runner.decoder_feeds(model, embedded, centre_prompt(image))
        else:
            spec = model.component(name)
            feeds = in_every_slot(spec, spec.feeds(model.preprocess, Sample(image=image)))
        found[name] = _latency(session, feeds)
    return found


def _latency(session: Session, feeds: Feeds) -> float:
    """Return the median latency of a session, or the one in its cache."""
    import numpy as np

    # A cached session would not run again.
    plain = session.session if isinstance(session, CachedSession) else session
    cache = session.cache if isinstance(session, CachedSession) else MemoryCache()
    # An app's graph may take an image in its own size.
    key = f"{LATENCY} {[(name, array.shape) for name, array in sorted(feeds.items())]}"
    known = cache.get(key)
    if known is not None and set(known) == {LATENCY}:
        return float(known[LATENCY])
    seconds = timing.repeat(partial(plain.run, feeds), ROUNDS, BUDGET_S).median_s
    cache.put(key, {LATENCY: np.asarray(seconds)})
    return seconds
