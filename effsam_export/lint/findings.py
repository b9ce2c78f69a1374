"""Records of a lint run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.fx import Node

Severity = Literal["error", "warning"]
"""`error`: the target does not support it. `warning`: the result may be wrong, or slow."""


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A node that violates a rule.

    Attributes:
        detail: The violation in a few words, with its numbers.
        severity: Overrides the severity of the rule; None to use that.
    """

    node: Node
    detail: str
    severity: Severity | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One violation, with what is needed to find and fix it.

    Attributes:
        node: Name in the traced program.
        op: Operator, as `aten.div.Tensor`; `input` for an input of the graph.
        module: Path of the innermost module in the export form; empty at the top.
        source: Python line that the node comes from, as `models/sam/layers.py:27`, with its text.
        why: What the target does with it.
        rewrite: How to fix it.
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
        measured: Images on which values were measured; empty if they were not.
        not_measured: Why values were not measured; empty if they were or no rule needs them.
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
        """Number of findings that the target does not support."""
        return sum(f.severity == "error" for f in self.findings)

    @property
    def passed(self) -> bool:
        """True if no finding is an error."""
        return self.errors == 0
