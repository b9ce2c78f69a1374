"""Weights, sizes and latencies of an export, as its report states them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export.bundle import read
from effsam_export.bundle.manifest import Exported
from effsam_export.config import targets as profiles
from effsam_export.parity.cached import CachedSession
from effsam_export.parity.comparison import Sides
from effsam_export.pipeline import prove, report_facts
from effsam_export.pipeline.int8_comparison import Int8Comparison, Variant
from effsam_export.pipeline.plan import ExportPlan, resolve
from effsam_export.pipeline.request import ExportRequest
from effsam_export.spec.stages import Graph
from tests.pipeline.test_report import Page
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.tensors import Feeds

pytestmark = pytest.mark.backend


class Counting:
    """A session that counts its runs and keeps its inputs."""

    def __init__(self) -> None:
        self.given: list[Feeds] = []

    def run(self, feeds: Feeds) -> Feeds:
        self.given.append(feeds)
        return {"outputs": np.zeros(1)}


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Checkpoint, parity_file: Path) -> ExportPlan:
    return resolve(
        ExportRequest(
            model=TINY_SAM,
            target=profiles.load_target("onnx", "fp32"),
            checkpoint=tiny_checkpoint,
            output=tmp_path / "out",
            parity_file=parity_file,
        )
    )


@pytest.fixture
def exported(bundle: Path) -> list[Exported]:
    content = read.read(bundle)
    return [
        Exported(
            graph=Graph(component=c, path=content.source(c.name), opset=18),
            artifact=content.artifact(c.name),
        )
        for c in TINY_SAM.components
    ]


def collected(
    plan: ExportPlan,
    exported: list[Exported],
    sessions: dict[str, Counting],
    *comparisons: Int8Comparison,
    simulator: str = "",
) -> report_facts.ReportFacts:
    artifacts = {name: CachedSession(session) for name, session in sessions.items()}
    sides = Sides(module=TINY_SAM.build(), sources={}, artifacts=artifacts, simulator=simulator)
    return report_facts.collect(plan, "a1" * 32, exported, sides, comparisons, {"torch": "2"})


def test_the_report_of_an_export_has_its_facts(exported_tiny: Path) -> None:
    content = read.read(exported_tiny)
    text = Page((exported_tiny / "report.html").read_text("utf-8")).text
    checkpoint = content.manifest["checkpoint"]
    assert f"File's SHA-256 | {checkpoint['sha256']} | " in text
    assert f"Weights' SHA-256 | {checkpoint['weights_sha256']} | " in text
    for name, version in content.manifest["tools"].items():
        assert f"{name} {version}" in text
    size = sum(f.stat().st_size for c in content.components for f in content.artifact(c).files)
    assert f"Size | {size / 1e6:.1f} MB" in text
    assert re.search(r"Latency \| encoder [\d.]+ ms, decoder [\d.]+ ms \|", text)
    assert [e["file"] for e in content.manifest["nondeterministic_files"]] == ["report.html"]


def test_each_component_is_called_a_few_times_whatever_is_cached(
    plan: ExportPlan, exported: list[Exported]
) -> None:
    sessions = {"encoder": Counting(), "decoder": Counting()}
    facts = collected(plan, exported, sessions)
    assert facts.timed
    assert {name: len(s.given) for name, s in sessions.items()} == dict.fromkeys(
        sessions, report_facts.ROUNDS + 1
    )
    assert sessions["encoder"].given[0]["image"].shape == (1, 3, 1024, 1024)
    # One point and the padding point.
    assert sessions["decoder"].given[0]["point_coords"].shape == (1, 2, 2)
    assert facts.tools.keys() == {"effsam-export", "torch"}


def test_a_simulator_is_not_timed(plan: ExportPlan, exported: list[Exported]) -> None:
    sessions = {"encoder": Counting(), "decoder": Counting()}
    facts = collected(plan, exported, sessions, simulator="an evaluator")
    assert not facts.timed
    assert not any(s.given for s in sessions.values())
    assert all(c.bytes > 0 and c.seconds is None for c in facts.components)


def test_what_an_int8_comparison_measured_is_taken(
    plan: ExportPlan, exported: list[Exported]
) -> None:
    sessions = {"encoder": Counting(), "decoder": Counting()}
    comparison = Int8Comparison(
        component="encoder", int8=Variant(precision="int8", bytes=1, seconds=7.0), baselines=()
    )
    facts = collected(plan, exported, sessions, comparison)
    assert {c.component: c.seconds for c in facts.components}["encoder"] == 7.0
    assert not sessions["encoder"].given
    assert sessions["decoder"].given


def test_only_the_cpu_runs_a_traced_graph_in_place_of_its_artefact(
    exported: list[Exported],
) -> None:
    encoder = exported[0]
    assert prove.is_traced_graph(encoder)
    gpu = replace(encoder.artifact, options={"provider": "CUDAExecutionProvider"})
    assert not prove.is_traced_graph(replace(encoder, artifact=gpu))
