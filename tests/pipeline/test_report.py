"""The HTML report: complete, closed, self-contained, and the same bytes for the same check."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from effsam_export.parity.cases import CaseResult
from effsam_export.parity.results import (
    ComparisonResult,
    ParityReport,
    Picture,
    TensorDiff,
)
from effsam_export.pipeline.int8_comparison import Int8Comparison, Variant
from effsam_export.pipeline.report import render, summary
from effsam_export.pipeline.report_facts import ComponentFacts, ReportFacts
from effsam_export.spec.targets import Gates

HOSTILE = "<script>alert('x')</script>\"&`\udcff"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps tags, texts and the attributes that load something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        assert not any(k.startswith("on") for k, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " | ".join(self.texts)


def tensor(name: str, **values: float) -> TensorDiff:
    measured = {"max_abs": 1e-3, "rms": 1e-4, "cosine": 0.99999, "sqnr_db": 61.25, **values}
    return TensorDiff(name=name, finite=math.isfinite(measured["max_abs"]), **measured)


def comparison(case: str, *tensors: TensorDiff) -> ComparisonResult:
    return ComparisonResult(point="artifact", component="decoder", case=case, tensors=tensors)


CASE = CaseResult(
    case="truck/point",
    mask_iou=(0.9991, 0.5, 0.5, 0.99523),
    boundary_iou=(0.91, 0.5, 0.5, 0.87654321),
    score_error=0.0023,
    best=3,
    artifact_best=3,
    score_gap=0.02,
    best_iou=0.99523,
    user_masks=(0, 3),
    scores=(0.5, 0.6, 0.7, 0.981),
    stability=(0.31, 0.4, 0.6, 0.952),
)
PASSED = ParityReport(
    model="mobile-sam",
    target="intel-cpu",
    precision="fp16",
    gates=Gates(mask_iou=0.99, score_error=0.01, cosine=0.999),
    comparisons=(
        ComparisonResult(
            point="onnx", component="encoder", case="truck", tensors=(tensor("image_embeddings"),)
        ),
        comparison(
            "truck/point", tensor("low_res_masks", max_abs=0.004, cosine=0.9995, sqnr_db=50.0)
        ),
        comparison(
            "truck/box", tensor("low_res_masks", max_abs=0.007, cosine=0.9997, sqnr_db=45.5)
        ),
    ),
    cases=(CASE,),
    failures=(),
)


FACTS = ReportFacts(
    weights="mobile_sam.pt",
    sha256="6d" * 32,
    weights_sha256="a1" * 32,
    official=True,
    licence="Apache-2.0",
    licence_notice="a model card says MIT",
    tools={"torch": "2.13.0", "effsam-export": "0.1"},
    machine="A CPU, 2 cores",
    components=(
        ComponentFacts(
            component="encoder",
            precision="fp16",
            files=("encoder.xml", "encoder.bin"),
            bytes=12_345_678,
            seconds=0.4126,
        ),
        ComponentFacts(
            component="decoder", precision="fp16", files=("d.xml",), bytes=10**7, seconds=0.0084
        ),
    ),
    bytes=22_345_678,
)


def picture(height: int = 80, width: int = 120, case: str = "truck/point") -> Picture:
    rng = np.random.default_rng(0)
    reference = np.zeros((height, width), dtype=np.bool_)
    reference[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    found = reference.copy()
    found[height // 4, width // 4] = False
    return Picture(
        case=case,
        image=rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8),
        points=((width / 3, height / 3, 1), (1.0, 1.0, 0)),
        box=(width / 4, height / 4, width / 2, height / 2),
        reference=reference,
        actual=found,
    )


def test_the_int8_comparison_is_shown() -> None:
    gain = Int8Comparison(
        component="encoder",
        int8=Variant(precision="int8", bytes=7_000_000, seconds=0.4),
        baselines=(
            Variant(precision="fp16", bytes=14_000_000, seconds=1.0),
            Variant(precision="fp32", bytes=28_000_000),
        ),
    )
    text = Page(render(PASSED, [], [gain])).text
    assert "INT8 compared with FP16 and FP32" in text
    assert "encoder | int8 | 7.00 | 400 | encoder | fp16 | 14.00 | 0.50 | 1000 | 0.40" in text
    assert "encoder | fp32 | 28.00 | 0.25 | - | -" in text
    assert "0.40 of FP16's latency on this machine." in text
    assert "INT8 compared with FP16 and FP32" not in Page(render(PASSED, [])).text


def test_a_check_that_passed() -> None:
    page = Page(render(PASSED, [picture()]))
    assert "mobile-sam for intel-cpu" in page.text
    assert "✓ PASSED" in page.text
    assert "fp16" in page.texts
    assert "FAILED" not in page.text
    assert "✗" not in page.text
    # Least of masks 0 and 3, which a user is given, and not of 1 and 2.
    assert "truck/point | 0.995230 | 3 | 0.98 | 0.95 | 0.876543 | 0.0023 | ✓" in page.text
    assert "Mask IoU | ≥ 0.99 | 0.995230 | Score error | ≤ 0.01 | 0.0023" in page.text


def test_the_gate_of_the_mean_is_shown_where_there_is_one() -> None:
    assert "Mean of mask IoU" not in Page(render(PASSED, [])).text
    worse = replace(CASE, mask_iou=(0.9,) * 4)
    for gate, shown in ((0.94, "0.947615"), (0.95, "✗ 0.947615")):
        gates = replace(PASSED.gates, mean_iou=gate)
        text = Page(render(replace(PASSED, gates=gates, cases=(CASE, worse)), [])).text
        assert f"Mean of mask IoU | ≥ {gate} | {shown}" in text


def test_comparison_points_show_the_worst_of_all_cases() -> None:
    page = Page(render(PASSED, []))
    assert "ONNX → artefact | low_res_masks | 0.007 | 0.9995000 | 45.5" in page.text
    assert "PyTorch → ONNX | image_embeddings | 0.001 | 0.9999900 | 61.2" in page.text


def test_a_check_that_failed_says_why() -> None:
    case = replace(
        CASE, mask_iou=(0.9899999,) * 4, score_error=0.25, artifact_best=1, score_gap=0.03
    )
    page = Page(
        render(replace(PASSED, cases=(case,), failures=("mask 0 is off", "so is 3")), [picture()])
    )
    assert "✗ FAILED" in page.text
    assert "mask 0 is off | so is 3" in page.text
    # Not rounded up to the gate that it missed.
    assert "✗ 0.989999" in page.text
    assert "✗ 0.25" in page.text
    assert "✗ mask 1, not 3; gap 0.03, IoU of the two 0.995230" in page.text
    tie = Page(render(replace(PASSED, cases=(replace(case, score_gap=0.02),)), [])).text
    assert "tie: mask 1, not 3; gap 0.02, IoU of the two 0.995230" in tie


def test_the_worst_mask_is_shown_with_its_score_and_stability() -> None:
    poor = replace(CASE, mask_iou=(0.7, 0.5, 0.5, 0.999))
    text = Page(render(replace(PASSED, cases=(poor,)), [])).text
    assert "Of mask | PyTorch's score | Stability | Boundary IoU" in text
    assert "truck/point | ✗ 0.700000 | 0 | 0.50 | 0.31 |" in text
    found = replace(CASE, scores=(), stability=())  # Of instances nothing is known.
    assert (
        "truck/point | 0.995230 | 3 | - | - |"
        in Page(render(replace(PASSED, cases=(found,)), [])).text
    )


def test_the_first_lines_give_the_verdict_and_its_main_figure() -> None:
    page = Page(render(PASSED, [picture()], facts=FACTS))
    start = page.texts.index("✓ PASSED")
    assert page.texts[start + 1] == (
        "The exported model gives PyTorch's masks within every gate on 1 prompt: the lowest mask "
        "IoU is 0.995230, and its gate 0.99."
    )
    assert page.texts[start + 2 : start + 8] == [
        *("Precision", "fp16", "Size", "22.3 MB", "Latency", "encoder 413 ms, decoder 8.4 ms")
    ]


def test_the_summary_of_other_checks() -> None:
    failed = replace(PASSED, failures=("mask 0 is off", "so is 3"), cases=(CASE, CASE))
    assert summary(failed) == (
        "The exported model does not give PyTorch's masks: 2 checks failed, on 2 prompts: the "
        "lowest mask IoU is 0.995230, and its gate 0.99."
    )
    assert summary(replace(PASSED, cases=())) == (
        "The exported model gives PyTorch's tensors within every gate on 3 comparisons: the lowest "
        "cosine similarity is 0.9995000, and its gate 0.999."
    )
    assert summary(replace(PASSED, comparisons=(), cases=())).startswith("Nothing was measured")


def test_weights_licence_tools_and_machine_are_shown() -> None:
    text = Page(render(PASSED, [], facts=FACTS)).text
    assert "Weights | mobile_sam.pt, the authors' file" in text
    assert f"File's SHA-256 | {'6d' * 32} | Weights' SHA-256 | {'a1' * 32}" in text
    assert "Licence | Apache-2.0: a model card says MIT" in text
    assert "Tools | effsam-export 0.1, torch 2.13.0 | Machine | A CPU, 2 cores" in text
    assert "encoder | fp16 | encoder.xml encoder.bin | 12.35 | 412.6" in text
    assert "decoder | fp16 | d.xml | 10.00 | 8.4" in text
    own = replace(FACTS, official=False, licence_notice="")
    assert "mobile_sam.pt, not the authors' file" in Page(render(PASSED, [], facts=own)).text
    assert "SHA-256" not in Page(render(PASSED, [])).text


def test_without_the_runtime_there_is_no_latency() -> None:
    components = tuple(replace(c, seconds=None) for c in FACTS.components)
    untimed = replace(FACTS, components=components)
    assert (FACTS.timed, untimed.timed) == (True, False)
    text = Page(render(replace(PASSED, simulator="a simulator"), [], facts=untimed)).text
    assert "Latency | not measured: the target's runtime does not run here" in text
    assert "decoder | fp16 | d.xml | 10.00 | -" in text


def test_a_prompt_without_a_differing_pixel_is_closed() -> None:
    one = picture(case="differs")
    equal = replace(one, case="equal", actual=one.reference)
    html = render(PASSED, [one, equal])
    opened = dict(re.findall(r'<details class="picture"( open)?><summary><h3>(\w+)', html))
    assert opened == {" open": "differs", "": "equal"}
    assert "equal | no pixel differs" in Page(html).text
    assert "differs | 1 missed, 0 added, of 9,600 pixels" in Page(html).text


def test_a_simulator_is_named() -> None:
    text = Page(render(replace(PASSED, simulator="a <simulator>"), [])).text
    assert "✓ PASSED, SIMULATED" in text
    assert "Simulated | by a <simulator>: the target's own runtime does not run" in text
    assert "SIMULATED" not in Page(render(PASSED, [])).text
    assert "Simulated" not in Page(render(PASSED, [])).text
    failed = replace(PASSED, simulator="a simulator", failures=("mask 0 is off",))
    assert "✗ FAILED" in Page(render(failed, [])).text


def test_prompts_that_were_left_out_are_listed() -> None:
    text = Page(render(replace(PASSED, left_out=("coffee/cup: takes no background",)), [])).text
    assert "Prompts that this model does not support:" in text
    assert "coffee/cup: takes no background" in text


def test_an_empty_check_did_not_pass() -> None:
    for failures in ((), ("nothing was measured",)):
        page = Page(render(replace(PASSED, comparisons=(), cases=(), failures=failures), []))
        assert "✗ FAILED" in page.text
        assert page.texts.count("nothing was measured") == 1


def test_a_single_component_has_no_cases() -> None:
    page = Page(render(replace(PASSED, cases=()), []))
    assert "✓ PASSED" in page.text
    assert "End to end | Nothing was measured." in page.text
    assert "≥ 0.999 | 0.9995000" in page.text


def test_not_finite_values() -> None:
    nan = math.nan
    broken = tensor("low_res_masks", max_abs=nan, rms=nan, cosine=nan, sqnr_db=nan)
    equal = tensor("iou_predictions", max_abs=0.0, rms=0.0, cosine=1.0, sqnr_db=math.inf)
    made_up = tensor("extra", max_abs=1.0, cosine=0.0, sqnr_db=-math.inf)
    fine = tensor("low_res_masks")
    comparisons = (
        comparison("a", fine, equal, made_up),
        comparison("b", broken),
        comparison("c", fine),
    )
    case = replace(CASE, mask_iou=(nan,) * 4, boundary_iou=(nan,) * 4, score_error=math.inf)
    text = Page(render(replace(PASSED, comparisons=comparisons, cases=(case,)), [])).text
    assert "low_res_masks | NaN | ✗ NaN | NaN" in text
    assert "iou_predictions | 0 | 1.0000000 | ∞" in text
    assert "extra | 1 | ✗ 0.0000000 | -∞" in text
    assert "truck/point | ✗ NaN | 0 | 0.50 | 0.31 | NaN | ✗ ∞ | ✓" in text
    assert "Cosine of any tensor | ≥ 0.999 | ✗ NaN" in text


def test_hostile_names_are_only_text() -> None:
    report = replace(
        PASSED,
        model=HOSTILE,
        target=HOSTILE,
        comparisons=(replace(comparison(HOSTILE, tensor(HOSTILE)), component=HOSTILE),),
        cases=(replace(CASE, case=HOSTILE),),
        failures=(HOSTILE,),
    )
    facts = replace(FACTS, weights=HOSTILE, tools={HOSTILE: HOSTILE}, licence=HOSTILE)
    for title in (None, HOSTILE):
        html = render(report, [picture(case=HOSTILE)], facts=facts, title=title)
        page = Page(html)
        assert "script" not in page.tags
        assert page.text.count("<script>alert('x')</script>\"&`?") >= 8
        assert html.encode("utf-8")


def test_same_check_same_bytes() -> None:
    assert render(PASSED, [picture()]) == render(PASSED, [picture()])


def test_report_needs_jinja_only_when_it_is_made() -> None:
    code = "import sys, effsam_export.cli, effsam_export.pipeline.request; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "effsam_export.cli" in loaded
    assert "jinja2" not in loaded


def test_title() -> None:
    page = Page(render(PASSED, [], title="A & B"))
    assert page.texts.count("A & B") == 2
    assert "mobile-sam for intel-cpu" not in page.text


def test_loads_nothing() -> None:
    html = render(PASSED, [picture()])
    page = Page(html)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.loads
    assert all(url.startswith("data:image/") for url in page.loads)
    assert "url(" not in html
    assert "http:" not in html
    assert "https:" not in html
