"""Trace a model for a target and apply the lint rules, which takes seconds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export import layouts
from effsam_export.errors import UsageError
from effsam_export.graph import trace
from effsam_export.lint import measured
from effsam_export.lint.findings import Finding, LintReport
from effsam_export.lint.rules import RULES, rules_for
from effsam_export.lint.subject import Subject, module_of, source_of
from effsam_export.models import fixed
from effsam_export.parity.evaluation_set import load_evaluation_set
from effsam_export.precision.select import fp32_program_nodes
from effsam_export.util.progress import ignore_event, stage
from effsam_export.weights import checkpoint as loading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from effsam_export.config.parity import ParityImage
    from effsam_export.lint.findings import Hit
    from effsam_export.precision.ranges import Ranges
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import OnEvent

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LintRequest:
    """A request for a lint run.

    Attributes:
        checkpoint: Weights; None to trace without, which disables the rules on values.
        components: Names of components; empty for all of the model's.
        ranges: Whether to measure values on an image; None to do it if a rule needs them and there
            are weights.
    """

    model: ModelSpec
    target: TargetProfile
    checkpoint: Checkpoint | None = None
    components: tuple[str, ...] = ()
    ranges: bool | None = None


def lint(request: LintRequest, on_event: OnEvent = ignore_event) -> LintReport:
    """Find what the target does not support or computes wrongly.

    Raises:
        UsageError: The model has no such component, or ranges are requested without weights.
        CheckpointError: The file is not a checkpoint of the model.
    """
    target = request.target
    laid_out = layouts.in_layout(request.model, target.layout)
    model = fixed.for_options(laid_out, target.options)
    chosen = _chosen(request, model)
    names = rules_for(target)
    LOG.debug("rules: %s", ", ".join(names))
    why_not = _why_not(request, names)
    images: tuple[ParityImage, ...] = ()
    if not why_not and any(RULES[n].measured for n in names):
        images = load_evaluation_set(model, None).images[:1]
    with stage("load", on_event) as running:
        loading.settle_vector_maths()
        if request.checkpoint is None:
            module = model.build().eval()
            running.detail = "without weights"
        else:
            loaded = loading.load_with_facts(model, request.checkpoint)
            model, module = loaded.model, loaded.module
            chosen = _chosen(request, model)
            running.detail = f"sha256 {request.checkpoint.sha256[:12]}"
    programs = {}
    for component in chosen:
        with stage(f"trace {component.name}", on_event) as running:
            programs[component.name] = trace.trace(module, component)
            running.detail = f"{len(programs[component.name].graph.nodes)} nodes"
    ranges: dict[str, Ranges] = {}
    if images:
        with stage("measure", on_event) as running:
            ranges = measured.measure(model, module, programs, images)
            running.detail = f"{images[0].path.stem}, {len(images[0].cases)} prompts"
    findings: list[Finding] = []
    with stage("rules", on_event) as running:
        for component in chosen:
            recipe = tuple(k for k in model.precision if k.component == component.name)
            program = programs[component.name]
            subject = Subject(
                component=component,
                target=target,
                program=program,
                ranges=ranges.get(component.name, {}),
                fp32_nodes=fp32_program_nodes(program, recipe),
            )
            for name in names:
                hits = list(apply((name,), subject))
                LOG.debug("%s, %s: %d findings", component.name, name, len(hits))
                findings += hits
        running.detail = f"{len(names)} rules, {len(findings)} findings"
    return LintReport(
        model=model.name,
        target=target.name,
        precision=target.precision,
        components=tuple(c.name for c in chosen),
        rules=names,
        findings=tuple(sorted(findings, key=lambda f: f.severity != "error")),
        measured=tuple(i.path.name for i in images),
        not_measured=why_not,
    )


def apply(names: tuple[str, ...], subject: Subject) -> Iterator[Finding]:
    """Apply the named rules to one component and yield the findings."""
    for name in names:
        for hit in RULES[name].check(subject):
            yield _finding(name, hit, subject.component)


def _finding(name: str, hit: Hit, component: ComponentSpec) -> Finding:
    rule, node = RULES[name], hit.node
    return Finding(
        rule=name,
        severity=hit.severity or rule.severity,
        component=component.name,
        node=node.name,
        op="input" if node.op == "placeholder" else str(node.target),
        module=module_of(node),
        source=source_of(node),
        detail=hit.detail,
        why=rule.why,
        rewrite=rule.rewrite,
    )


def _chosen(request: LintRequest, model: ModelSpec) -> tuple[ComponentSpec, ...]:
    known = {c.name for c in model.components}
    for name in request.components:
        if name not in known:
            raise UsageError(
                f"model `{model.name}` has no component `{name}`",
                hint=f"it has {', '.join(sorted(known))}",
            )
    return tuple(
        c for c in model.components if not request.components or c.name in request.components
    )


def _why_not(request: LintRequest, names: tuple[str, ...]) -> str:
    """Return why values are not measured; empty if they are, or if no rule needs them."""
    if request.ranges and request.checkpoint is None:
        raise UsageError(
            f"there are no weights of `{request.model.name}` to measure ranges with",
            hint=f"`effsam fetch {request.model.name}`, or give a file with --checkpoint",
        )
    if not any(RULES[n].measured for n in names):
        return ""
    if request.ranges is False:
        return "disabled by the caller"
    return "" if request.checkpoint is not None else "no weights"
