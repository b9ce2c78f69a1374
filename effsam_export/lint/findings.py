"""What lint finds, as records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.fx import Node

Severity = Literal["error", "warning"]
"""`error`: the target cannot take it. `warning`: the result may be wrong, or slow."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A node a rule objects to.

    Attributes:
        detail: What was found there, with its numbers, in a few words.
        severity: In the place of the rule's own, where it depends on what was found.
    """

    node: Node
    detail: str
    severity: Severity | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One violation, with everything needed to go and mend it.

    Attributes:
        node: Name in the traced program.
        op: Operator, as `aten.div.Tensor`; `input` for an input of the graph.
        module: Path of the innermost module in the export form; empty at the top.
        source: Python line that made the node, as `models/sam/layers.py:27`, with its text.
        why: What the target makes of it.
        rewrite: What would mend it.
    """

    rule: str
    severity: Severity
    component: str
    node: str
    op: str
    module: str
    source: str
    detail: str
    why: str
    rewrite: str


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """All findings for one model and target, errors first.

    Attributes:
        rules: Names of the rules that were applied.
        measured: Photographs that ranges were measured on; empty where they were not.
        not_measured: Why not, as a sentence; empty where they were or no rule wants them.
    """

    model: str
    target: str
    precision: str
    components: tuple[str, ...]
    rules: tuple[str, ...]
    findings: tuple[Finding, ...]
    measured: tuple[str, ...] = ()
    not_measured: str = ""

    @property
    def errors(self) -> int:
        """How many findings the target cannot take."""
        return sum(f.severity == "error" for f in self.findings)

    @property
    def passed(self) -> bool:
        """True without errors; warnings pass."""
        return self.errors == 0
