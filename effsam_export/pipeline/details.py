"""What an export logs of its plan, its weights and its graphs (`effsam export --verbose`)."""

from __future__ import annotations

import logging
import platform
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.util import installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.weights.facts import WeightFacts

LOG = logging.getLogger(__name__)
TRACING = ("torch", "onnx", "onnxscript")


def log_plan(plan: ExportPlan) -> None:
    """Log the target, its options and gates, the weights, and the versions of the tools."""
    if not LOG.isEnabledFor(logging.DEBUG):
        return
    target, backend = plan.target, backends.BACKENDS[plan.target.backend]
    tools = [*TRACING, *backend.packages, *filter(None, [backend.quantizer])]
    versions = ", ".join(f"{name} {installed.version_of(name)}" for name in dict.fromkeys(tools))
    LOG.debug("target %s: %s, opset %d", target.name, target.description, target.opset)
    LOG.debug("target options: %s", _pairs(target.options))
    LOG.debug("model options: %s", _pairs(plan.model.options))
    LOG.debug("gates: mask IoU %g, score %g", target.gates.mask_iou, target.gates.score_error)
    LOG.debug("weights: %s, sha256 %s", plan.weights.path, plan.weights.sha256)
    LOG.debug("tools: Python %s, %s", platform.python_version(), versions)


def log_weights(facts: WeightFacts) -> None:
    """Log where in a file the weights were, and what was left out."""
    LOG.debug("%d tensors loaded", facts.tensors)
    for key, value in facts.origin.document().items():
        LOG.debug("%s: %s", key, value)


def log_graph(graph: Graph) -> None:
    """Log what the passes did to a traced graph."""
    for rewrite in graph.rewrites:
        LOG.debug("%s", rewrite)


def log_artifact(artifact: Artifact) -> None:
    """Log what was read back from the written files: constants and operators."""
    LOG.debug("constants: %s", _counts(artifact.tensors_by_dtype))
    LOG.debug("operators: %s", _counts(artifact.ops))


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{number} {name}" for name, number in ordered)
